import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.text import normalise_question, question_key


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


@given(st.text(), st.randoms(use_true_random=False))
def test_key_of_shuffled_tokens(text, rng: random.Random):
    tokens = normalise_question(text)
    rng.shuffle(tokens)
    # A number after a command or a sign may join up with it; blanks keep tokens apart.
    assert question_key("  ".join(tokens)) == question_key(text)
