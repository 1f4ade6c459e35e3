r"""Finding `\boxed{...}` in a text, in time linear in the text."""

from __future__ import annotations

import re

_BRACE = re.compile(r"\\f?boxed\s*\{|\\.|[{}]", re.DOTALL)


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


def last_box(text: str) -> str | None:
    r"""What the last `\\boxed{...}` of a text holds; None where there is none that is closed.

    >>> last_box(r"So $\\boxed{1}$ or $\\boxed{\\frac{1}{2}}$.")
    '\\\\frac{1}{2}'
    """
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth, start = 1, start + len(r"\boxed{")
    for at in range(start, len(text)):
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if not depth:
                return text[start:at].strip() or None
    return None
