r"""Finding `\boxed{...}` in a text, in time linear in the text."""

from __future__ import annotations

import re

_BRACE = re.compile(r"\\f?boxed\s*\{|\\.|[{}]", re.DOTALL)


def boxes(text: str) -> list[tuple[int, int, str]]:
    r"""Returns the start, end and content of every `\boxed{...}` with balanced braces, in order.

    Escaped braces (`\{1, 2\}`) are content; a box within a box is content of the outer one; a box
    that never closes is none. One pass, so the time is linear in the text.

    >>> boxes(r"so \boxed{\frac{1}{2}}.")
    [(3, 22, '\\frac{1}{2}')]
    """
    open_braces: list[tuple[int, int] | None] = []  # start and content of a box, None for a brace
    closed: list[tuple[int, int, int]] = []
    for mark in _BRACE.finditer(text):
        if mark[0].endswith("{") and len(mark[0]) > 2:
            open_braces.append(mark.span())
        elif mark[0] == "{":
            open_braces.append(None)
        elif mark[0] == "}" and open_braces:
            box = open_braces.pop()
            if box is not None:
                while closed and closed[-1][0] > box[0]:
                    closed.pop()
                closed.append((*box, mark.end()))
    return [(start, end, text[content : end - 1]) for start, content, end in closed]


def last_box(text: str) -> str | None:
    r"""Returns what the last `\\boxed{...}` of a text holds; None where it is empty or not closed.

    >>> last_box(r"So $\\boxed{1}$ or $\\boxed{\\frac{1}{2}}$.")
    '\\\\frac{1}{2}'
    """
    last = text.rfind(r"\boxed{")
    closed = boxes(text[last:]) if last >= 0 else []
    return closed[0][2].strip() or None if closed and closed[0][0] == 0 else None
