"""The code in an answer."""

from __future__ import annotations

import re
from typing import Literal

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^\s`{]*)")

Which = Literal["last", "first", "longest"]


def blocks(answer: str) -> list[tuple[str, str]]:
    r"""Return the fenced blocks of a Markdown text: language (lower case or empty) and content.

    A block that is not closed goes to the end of the text.

    >>> blocks("So:\n```python\nx = 1\n```\n")
    [('python', 'x = 1\n')]
    """
    found: list[tuple[str, str]] = []
    fence, language = "", ""
    content: list[str] = []
    for line in answer.splitlines(keepends=True):
        match = _FENCE.match(line)
        if not fence and match:
            fence, language, content = match[1], match[2].lower(), []
        elif fence and match and match[1].startswith(fence) and not match[2]:
            found.append((language, "".join(content)))
            fence = ""
        elif fence:
            content.append(line)
    if fence:
        found.append((language, "".join(content)))
    return found


def choose(blocks: list[tuple[str, str]], tags: tuple[str, ...], which: Which) -> str | None:
    """Return one of the blocks in a language, else one of those that name none, else None."""
    for wanted in (tags, ("",)):
        codes = [code for language, code in blocks if language in wanted and code.strip()]
        if codes and which == "longest":
            return max(codes, key=len)
        if codes:
            return codes[0 if which == "first" else -1]
    return None
