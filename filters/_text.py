"""What several filters read from a text: its words, in any script, and its boxed answers."""

from __future__ import annotations

import re

from synth.text import CJK

_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+|[^\w\s]|_")
_BRACE = re.compile(r"\\f?boxed\s*\{|\\.|[{}]", re.DOTALL)


def words(text: str) -> list[str]:
    """The words of a text; a Chinese, Japanese or Korean character and a mark are a word each.

    >>> words("So x=12，答案")
    ['So', 'x', '=', '12', '，', '答', '案']
    """
    return _WORD.findall(text)


def boxes(text: str) -> list[tuple[int, int, str]]:
    r"""Every `\boxed{...}` with balanced braces: its start, end and content, in order.

    Escaped braces (`\{1, 2\}`) are content; a box within a box is content of the outer one; a box
    that never closes is none. One pass, so the time is linear in the text.

    >>> boxes(r"so \boxed{\frac{1}{2}}.")
    [(3, 22, '\\frac{1}{2}')]
    """
    open_braces: list[tuple[int, int] | None] = []  # start and content of a box, None for a brace
    found: list[tuple[int, int, int]] = []
    for mark in _BRACE.finditer(text):
        if mark[0].endswith("{") and len(mark[0]) > 2:
            open_braces.append(mark.span())
        elif mark[0] == "{":
            open_braces.append(None)
        elif mark[0] == "}" and open_braces:
            box = open_braces.pop()
            if box is not None:
                while found and found[-1][0] > box[0]:
                    found.pop()
                found.append((*box, mark.end()))
    return [(start, end, text[content : end - 1]) for start, content, end in found]
