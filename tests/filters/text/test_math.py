"""Final answers as text: what the rules change, and that they take no time on hostile ones."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters._text.math import based, content, plain, rational, readable, tail, visible

ALL = (visible, plain, readable, content, tail, based, rational)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("１，２３４", "1,234"),
        (r"0.\overline{3}", r"\frac{1}{3}"),
        (r"1.2\overline{34}", r"\frac{611}{495}"),
        (r"0.\dot{1}4285\dot{7}", r"\frac{1}{7}"),
        ("0.(6)", r"\frac{2}{3}"),
        (r"\{ \}", r"\emptyset"),
        ("百分之20", r"20\%"),
        ("√2", r"\sqrt{2}"),
        ("x²", "x^{2}"),
        (r"\cos 60^\circ", r"\cos\left(\frac{60\pi}{180}\right)"),
        ("4\x002\u200f", "42"),
    ],
)
def test_readable(text, expected):
    assert readable(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42个", "42"), ("12 dollars", "12"), ("1 234 567", "1234567"), ("共36人", "36"),
        (r"\textbf{(C) } 12", "12"), (r"\text{the answer is } 7", "7"), (r"\text{17 meters}", "17"),
        ("1.2e3", r"1.2 \times 10^{3}"), ("1和2", "1, 2"),
        # What only looks like one of those stays.
        ("2 pi", "2 pi"), ("3 million", "3 million"), ("5 sqrt", "5 sqrt"), (r"\text{(C)}", r"\text{(C)}"),
        ("1 2345", "1 2345"), ("甲", "甲"), ("2 and 3", "2 and 3"),
    ],
)  # fmt: skip
def test_content(text, expected):
    assert content(text) == expected


@given(st.integers(-9999, 9999), st.integers(1, 999))
def test_every_fraction_is_read(a, b):
    value = Fraction(a, b)
    sign = "-" if a < 0 else ""
    assert rational(f"{a}/{b}") == value
    assert rational(rf"{sign}\frac{{{abs(a)}}}{{{b}}}") == value
    whole, rest = divmod(abs(a), b)
    assert rational(rf"{sign}{whole}\frac{{{rest}}}{{{b}}}") == value


@given(st.decimals(-9999, 9999, places=4))
def test_every_decimal_is_read(value):
    assert rational(format(value, "f")) == Fraction(value)


@pytest.mark.parametrize(
    "text", ["", "-", "1/0", "x", "1/2x", "--1", "1.5/2", r"\frac{1}{2}3", "1,5", "1 1/2"]
)
def test_what_is_no_plain_number(text):
    assert rational(text) is None


@given(st.integers(2, 36), st.integers(0, 10**6))
def test_a_number_with_its_base(base, value):
    digits, rest = "", value
    while rest or not digits:
        rest, digit = divmod(rest, base)
        digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[digit] + digits
    assert based(f"{digits}_{{{base}}}") == based(f"${digits}_{{{base}}}$") == (value, base)


@given(st.text(alphabet=r"\{}frac0123456789.,/^()_ textboverlinedot%个百分之√", max_size=80))
def test_no_text_breaks_a_rule(text):
    for rule in ALL:
        rule(text)
    assert readable(readable(text)) is not None


@pytest.mark.parametrize(
    "piece",
    ["1", "1 ", "1,", "1 234", "{", "}", r"\text{", r"\frac{1}", "1.", r"\overline{", "个", "百分之", "√", " ", "\\",
     r"\dot{3}", "0.", "(1", r"\cos 1^", "a_", "\x00", "\ud800", "\u202e", "is ", "or ", "=", "²"],
)  # fmt: skip
@pytest.mark.parametrize("rule", ALL)
def test_rules_are_linear(rule, piece):
    text = piece * (200_000 // len(piece))
    start = time.process_time()
    rule(text)
    assert time.process_time() - start < 2
