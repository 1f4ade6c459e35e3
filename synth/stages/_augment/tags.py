"""Tags in an answer: what a teacher wrote between `<tag>` and `</tag>`."""

from __future__ import annotations

import re

from synth.core.record import Record


def tagged(text: str, tag: str, prompt: str = "") -> list[str]:
    """Returns what an answer holds between `<tag>` and `</tag>`, once or several times.

    What stands between such tags in the prompt is no answer when repeated. Raises ValueError where
    nothing is there or the tags do not pair: it cannot be read without guessing.

    >>> tagged("Sure! <question>1 + 1?</question>", "question")
    ['1 + 1?']
    """
    echoes = {echo.strip() for echo in re.findall(rf"<{tag}>(.*?)</{tag}>", prompt, re.DOTALL)}
    contents: list[str] = []
    start: int | None = None
    for mark in re.finditer(rf"<(/?){tag}>", text):
        if bool(mark[1]) == (start is None):
            raise ValueError(f"tags do not pair: <{mark[1]}{tag}>")
        if start is None:
            start = mark.end()
            continue
        content = text[start : mark.start()].strip()
        if not any(character.isalnum() for character in content):
            raise ValueError(f"nothing between the tags: <{tag}>")
        if content in echoes:
            raise ValueError("the prompt repeated")
        contents.append(content)
        start = None
    if start is not None:
        raise ValueError(f"tags do not pair: no </{tag}>")
    if not contents:
        raise ValueError(f"no <{tag}> found")
    return contents


def in_answer(answer: Record, tag: str) -> list[str]:
    """Returns what a teacher's answer holds between the tags. Raises ValueError as `tagged`."""
    return tagged(answer.answer, tag, "\n".join(m["content"] for m in answer.messages))


def one_in_answer(answer: Record, tag: str) -> str:
    """Returns the one text between the tags. Raises ValueError where it is not exactly one."""
    contents = in_answer(answer, tag)
    if len(contents) > 1:
        raise ValueError(f"more than one <{tag}>")
    return contents[0]
