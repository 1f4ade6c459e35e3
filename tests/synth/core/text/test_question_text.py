import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.core.text.question_text import normalise_question, question_key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is $(a, b)$?", "what is $(a,b)$"),
        ("1,234 apples", "1234 apples"),
        ("1{,}234", "1234"),
        ("12.0 and 2.50", "12 and 2.5"),
        (r"\dfrac{1}{2}", r"\frac {1} {2}"),
        (r"3 \times 4 \leq 12", "3 × 4 <= 12"),
        ("１２个苹果？", "12 个苹果"),
        ("x²", "x^2"),
        (r"\left( x \right)", "(x)"),
        (r"50\% of 8", "50 percent of 8"),
        ("5 − 3", "5-3"),
        ("a well-known fact", "a well known fact"),
        (r"\dfrac{1}{2}", "1/2"),
        (r"\tfrac12", "½"),
        (r"\frac{x+1}{\frac{2}{3}}", "(x+1)/(2/3)"),
        (r"\frac\pi2", "π/2"),
        (r"2\pi\sqrt{3}", "2π√3"),
        (r"\angle A = 90^{\circ}", "∠A = 90°"),
        ("$1,100, or more", "$1100, or more"),
        (r"\$10,\!000", "10000"),
        (r"x \ne \infty", "x ≠ ∞"),
        (".5 litres", "0.50 litres"),
    ],
)
def test_one_question_set_in_two_ways(one, other):
    assert normalise_question(one) == normalise_question(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("12 + 34", "12 - 34"), ("1.5", "15"), ("x^2", "x2"), ("1,2,3", "123"), ("le 5", r"\le 5")],
)
def test_what_is_not_the_same(one, other):
    assert question_key(one) != question_key(other)


def test_the_key_has_no_order():
    assert question_key("12 - 34") == question_key("34 - 12")
    assert normalise_question("12 - 34") != normalise_question("34 - 12")


@given(st.text())
def test_normal_form_is_its_own_normal_form(text):
    tokens = normalise_question(text)
    assert normalise_question(" ".join(tokens)) == tokens


@given(st.text(alphabet=r"\\ {}frac12dtπ,.!x", max_size=40))
def test_latex_of_any_form(text):
    tokens = normalise_question(text)
    assert normalise_question(" ".join(tokens)) == tokens
    assert not any("{" in token or "\\" in token for token in tokens)


@given(st.text(), st.randoms(use_true_random=False))
def test_key_of_shuffled_tokens(text, rng: random.Random):
    tokens = normalise_question(text)
    rng.shuffle(tokens)
    # A number after a command or a sign may join up with it; blanks keep tokens apart.
    assert question_key("  ".join(tokens)) == question_key(text)


def test_a_megabyte_of_combining_marks_is_normalised_in_time():
    start = time.monotonic()
    normalise_question("é" + "\u0301" * 1_000_000 + " \uff21")
    assert time.monotonic() - start < 10
