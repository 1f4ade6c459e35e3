"""Placeholder."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from synth.core.record import Record

if TYPE_CHECKING:
    pass


def unreadable(answer: Record, error: ValueError) -> str:
    """Why an answer cannot be read; that it was cut off explains the rest."""
    cut = answer.generation is not None and answer.generation.finish_reason == "length"
    return f"cut off: {error}" if cut else str(error)


def tagged(text: str, tag: str, sent: str = "") -> list[str]:
    """What an answer holds between `<tag>` and `</tag>`, once or several times.

    Args:
        text: The answer.
        tag: The tag's name.
        sent: The prompt: what stands there between such tags is no answer when it is repeated.

    Raises:
        ValueError: Nothing, or tags that do not pair: it cannot be read without guessing.

    >>> tagged("Sure! <question>1 + 1?</question>", "question")
    ['1 + 1?']
    """
    echoes = {echo.strip() for echo in re.findall(rf"<{tag}>(.*?)</{tag}>", sent, re.DOTALL)}
    found: list[str] = []
    begun: int | None = None
    for mark in re.finditer(rf"<(/?){tag}>", text):
        if bool(mark[1]) == (begun is None):
            raise ValueError(f"tags do not pair: <{mark[1]}{tag}>")
        if begun is None:
            begun = mark.end()
            continue
        content = text[begun : mark.start()].strip()
        if not any(character.isalnum() for character in content):
            raise ValueError(f"nothing between the tags: <{tag}>")
        if content in echoes:
            raise ValueError("the prompt repeated")
        found.append(content)
        begun = None
    if begun is not None:
        raise ValueError(f"tags do not pair: no </{tag}>")
    if not found:
        raise ValueError(f"no <{tag}> found")
    return found


def in_answer(answer: Record, tag: str) -> list[str]:
    """What a teacher's answer holds between the tags. Raises ValueError as `tagged` does."""
    return tagged(answer.answer, tag, "\n".join(m["content"] for m in answer.messages))


def one_in_answer(answer: Record, tag: str) -> str:
    """The one thing between the tags. Raises ValueError where it is not exactly one."""
    found = in_answer(answer, tag)
    if len(found) > 1:
        raise ValueError(f"more than one <{tag}>")
    return found[0]
