import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters._text.words import words
from synth.core.text.boxed import boxes


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        (r"so \boxed{5}.", ["5"]),
        (r"\boxed{\frac{1}{2}} and \fbox{3}", [r"\frac{1}{2}"]),
        (r"\boxed {7}", ["7"]),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"]),
        (r"\boxed{\boxed{3}}", [r"\boxed{3}"]),
        (r"\boxed{1 but \boxed{2}", ["2"]),
        (r"\boxed{1", []),
        (r"} \boxed{}", [""]),
        (r"\\boxed{1}", []),
    ],
)
def test_boxes(text, contents):
    assert [content for _, _, content in boxes(text)] == contents


@given(st.text(alphabet=r"\boxed{}1 "))
def test_boxes_lie_in_order_and_apart(text):
    found = boxes(text)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(found))
    assert all(text[:end].endswith("}") for _, end, _ in found)


def test_boxes_take_linear_time():
    start = time.process_time()
    assert boxes(r"\boxed{" * 50_000) == []
    assert len(boxes(r"\boxed{" * 50_000 + "}" * 50_000)) == 1
    assert time.process_time() - start < 3


def test_words_of_two_scripts():
    assert words("So x=12，答案") == ["So", "x", "=", "12", "，", "答", "案"]


@given(st.text())
def test_words_lose_only_white_space(text):
    assert "".join(words(text)) == "".join(text.split()) or any(c.isspace() for c in text)
