import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters._text.prose import blanked, clip, formulas


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (r"so \(x = y\) holds", "so holds"),
        (r"\[ x \]then", "then"),
        ("for $x_1$ and $$y$$.", "for and ."),
        ("she pays $5 and then $10 more", "she pays $5 and then $10 more"),
        ("it is $3.75 and $x$ is", "it is $3.75 and is"),
        (r"pay \$9 and $x$ now", r"pay \$9 and now"),
        ("in one $x\n\nand another$ paragraph", "in one $x and another$ paragraph"),
        ("a\n\\begin{align*}\nx &= y\n\\end{align*}\nb", "a b"),
        ("7 x .5 = <<7*.5=3.5>>3.5", "7 x .5 = 3.5"),
        ("run `ls -l` now", "run now"),
        ("a ` alone\nand ` again", "a ` alone and ` again"),
        ("code:\n```python\nfor x in y:\n```\nend", "code: end"),
        ("code:\n```python\nfor x in y:", "code:"),
        ("a [asy] draw((0,0)); [/asy] b", "a b"),
        (r"thus \boxed{ten}, \textbf{so}", "thus {ten}, {so}"),
        ("", ""),
    ],
)
def test_prose_is_what_is_left(text, left):
    prose = blanked(text)
    assert " ".join(prose.split()) == left
    assert len(prose) == len(text)


def test_code_can_stay():
    text = "so $x$ and `y`"
    assert blanked(text, ("math",)) == "so     and `y`"


ALPHABET = ["$", "$$", "\\(", "\\)", "\\[", "\\]", "`", "```", "\n", "\n\n", " ", "a", "5", "\\"]
ALPHABET += [
    "\\begin{align}",
    "\\end{align}",
    "<<",
    ">>",
    "[asy]",
    "[/asy]",
    "\ud800",
    "\x00",
    "字",
]


@given(st.lists(st.sampled_from(ALPHABET), max_size=60).map("".join))
def test_places_and_lines_stay(text):
    prose = blanked(text)
    assert len(prose) == len(text)
    assert [i for i, c in enumerate(text) if c == "\n"] == [
        i for i, c in enumerate(prose) if c == "\n"
    ]
    assert all(new == old or new == " " for new, old in zip(prose, text, strict=True))
    ends = [0, *(end for _, end, _ in formulas(text))]
    assert all(start >= end for (start, _, _), end in zip(formulas(text), ends, strict=False))


def test_clip_is_one_line_of_valid_text():
    assert clip("a\n b\ud800") == "a b\ufffd"
    assert len(clip("x" * 10**6)) == 80


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    ["$a ", "`", "\\(", "\n \n", "\\begin{align}", "[", "\\", "<<", "$x$", "```", "\n" + " " * 199],
)
def test_time_is_linear(piece):
    text = piece * (10**6 // len(piece))
    start = time.process_time()
    assert len(blanked(text)) == len(text)
    assert time.process_time() - start < 4
