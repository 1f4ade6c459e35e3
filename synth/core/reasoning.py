"""Splits whatever an endpoint returned into reasoning and answer, and joins them again.

Reasoning has fields or parts of its own (`synth.core.message_text` reads these), or it
is inline text with the tags of one of the DIALECTS, the opening one of which may be missing because
the chat template had written it already (R1-Distill).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from synth.core.message_text import read_parts, reasoning_of

OPEN, CLOSE = "<think>", "</think>"


class Dialect(NamedTuple):
    """How a family of models marks its thinking."""

    open: str
    close: str
    around: Sequence[str] = ()  # may stand at the ends of the thinking or of the answer


_TABLES = tomllib.loads(Path(__file__).with_name("dialects.toml").read_text(encoding="utf-8"))
DIALECTS = tuple(Dialect(**entry) for entry in _TABLES["dialects"])
_BY_TAG = {tag: dialect for dialect in DIALECTS for tag in (dialect.open, dialect.close)}
_AROUND = [mark for dialect in DIALECTS for mark in dialect.around]
_MARK = re.compile("|".join(re.escape(mark) for mark in (*_BY_TAG, *_AROUND)))
_FIRST = {mark[0] for mark in (*_BY_TAG, *_AROUND)}  # a scan for one character costs nothing
# The prompts for rewriting ask for these two, and read them from the answer: no think block.
_ASKED_FOR = re.compile(r"</reasoning>\s*<answer>")
# What endpoints write when the limit on tokens ended a response: OpenAI and vLLM, Anthropic,
# Gemini (seen in both cases), and servers that name the limit that was met.
_CUT = {
    *("length", "max_tokens", "max_length", "max_output_tokens"),
    *("model_length", "model_context_window_exceeded"),
}


class Mark(NamedTuple):
    """A mark of a dialect in a text."""

    text: str
    at: int  # where it starts
    kind: str  # `open` or `close` of a think block, or `around` one


def marks(text: str) -> list[Mark]:
    """Finds every mark of every dialect that stands in a text, in order.

    >>> marks("a</think>b")
    [Mark(text='</think>', at=1, kind='close')]
    """
    return [Mark(match[0], match.start(), _kind(match[0])) for match in _MARK.finditer(text)]


def _kind(mark: str) -> str:
    dialect = _BY_TAG.get(mark)
    return "around" if dialect is None else "open" if mark == dialect.open else "close"


def is_cut(finish_reason: str) -> bool:
    """Tells whether a finish reason says that the limit on tokens ended the answer."""
    return finish_reason.lower() in _CUT


def split_trace(text: str) -> tuple[str | None, str]:
    """Splits inline text into reasoning and answer, in whichever dialect it is written.

    The dialect is the one that the text begins with, else that of the first closing tag, else that
    of the first opening one. Its first closing tag ends the reasoning; a missing opening tag counts
    as opened at the start. With an opening tag and no closing one (cut off), all that follows is
    reasoning and the answer is empty. Text with no tag at all has reasoning None. Tags that are
    left over stay where they are, for the filter `think_format` to find.

    >>> split_trace("<think>1+1=2</think>2")
    ('1+1=2', '2')
    >>> split_trace("1+1=2[/THINK]2")
    ('1+1=2', '2')
    >>> split_trace("2")
    (None, '2')
    """
    dialect = _dialect(text)
    if dialect is None:
        return None, text.strip()
    head, close, tail = text.partition(dialect.close)
    before, opened, after = head.partition(dialect.open)
    answer = _bare(tail, dialect)
    if opened and not _bare(before, dialect):
        return _bare(after, dialect), answer
    if close:
        return _bare(head, dialect), answer
    # The model spoke before it began to think and never ended: keep its words as reasoning.
    return f"{before.strip()}\n{_bare(after, dialect)}".strip(), ""


def _dialect(text: str) -> Dialect | None:
    if not any(first in text for first in _FIRST):
        return None
    asked_for = _ASKED_FOR.search(text) is not None
    first: Dialect | None = None
    for match in _MARK.finditer(text):
        dialect = _BY_TAG.get(match[0])
        if dialect is None or (asked_for and dialect.open == "<reasoning>"):
            continue
        if match[0] == dialect.close:
            return dialect
        if first is None:
            first = dialect
            if not _bare(text[: match.start()], dialect):
                return dialect
    return first


def _bare(text: str, dialect: Dialect) -> str:
    """Strips the blanks and the dialect's marks from the ends of a part of a trace."""
    text = text.strip()
    if not dialect.around:
        return text
    text = text[_leading(text, dialect.around) :]
    return text[: len(text) - _leading(text[::-1], [mark[::-1] for mark in dialect.around])]


def _leading(text: str, marks: Iterable[str]) -> int:
    """Counts the characters of marks and blanks that a text begins with."""
    match = re.match(rf"(?:{'|'.join(map(re.escape, marks))}|\s)*", text)
    return match.end() if match else 0


def join_trace(reasoning: str | None, answer: str) -> str:
    """Writes the assistant's text as a student is trained to write it (the form of R1).

    >>> print(join_trace("1+1=2", "2"))
    <think>
    1+1=2
    </think>
    <BLANKLINE>
    2
    """
    return answer if reasoning is None else f"{OPEN}\n{reasoning}\n{CLOSE}\n\n{answer}"


def split_fields(reasoning: str, content: str) -> tuple[str | None, str]:
    """Splits a message whose reasoning a server has told apart from its content.

    Some servers leave the thinking in the content too: what is said twice is read once. Where the
    two differ, the field is the reasoning and the content stays as it is, tags included: the model
    wrote both, so neither is left out, and the filter `think_format` finds the second block. Some
    put all into the field: the tags in it then say where the answer begins.

    >>> split_fields("1+1=2", "<think>1+1=2</think>2")
    ('1+1=2', '2')
    """
    reasoning, content = reasoning.strip(), content.strip()
    if not reasoning:
        return split_trace(content)
    for dialect in DIALECTS:  # some servers leave the closing tag at the head of the content
        content = content.removeprefix(dialect.close).strip()
    mark = _MARK.search(reasoning)
    if mark and (mark.start() == 0 or _kind(mark[0]) == "close"):
        thought, answer = split_trace(reasoning)
        if thought and (not answer or not content or answer == content):
            reasoning, content = thought, content or answer
    thought, answer = split_trace(content)
    if thought is not None:
        in_field, inline = _squeezed(reasoning), _squeezed(thought)
        if inline in in_field:
            return reasoning, answer
        if in_field in inline:
            return thought, answer
    return reasoning, content


def _squeezed(text: str) -> str:
    """Returns a text with single blanks: servers differ in the line breaks that they keep."""
    return " ".join(text.split())


def split_message(message: Mapping[str, Any]) -> tuple[str | None, str]:
    """Returns reasoning and answer of a chat message in any dialect.

    Null content counts as empty. Where nothing but a refusal was written, that is the answer.
    """
    return split_fields(*told_apart(message))


def parse_completion(raw: dict[str, Any]) -> tuple[str | None, str, str]:
    """Returns reasoning, answer and finish reason of a raw chat completion (OpenAI's format).

    Raises ValueError where the response has no choice or no message in it.
    """
    try:
        choice = raw["choices"][0]
        reasoning, answer = split_message(choice["message"])
        finish = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("the response has no choices[0].message") from error
    return reasoning, answer, finish if isinstance(finish, str) and finish else "unknown"


def whole_text(raw: dict[str, Any]) -> str:
    """Returns what the model wrote, tags included, so that it can be written on from there.

    Where a server has split the reasoning off, the tags are put back: a closing one only if
    anything follows it.
    """
    reasoning, content = told_apart(raw["choices"][0]["message"])
    if not reasoning or not content:
        return f"{OPEN}\n{reasoning}" if reasoning else content
    _, answer = split_fields(reasoning, content)
    if answer == content.strip():
        return join_trace(reasoning, content)
    return content if split_trace(content)[0] else join_trace(reasoning, answer)


def told_apart(message: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the reasoning that a server has split off, and the content; "" for none."""
    reasoning, content = reasoning_of(message), message.get("content")
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        parts = read_parts(content)
        reasoning, content = reasoning or parts.reasoning, parts.content
    content = content if isinstance(content, str) else ""
    if not content.strip() and isinstance(refusal := message.get("refusal"), str):
        content = refusal
    return reasoning, content
