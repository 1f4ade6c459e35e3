"""Reads turns of a chat from whichever of the usual forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from synth.core.compression import parse_json
from synth.core.message_text import REASONING_FIELDS, read_parts, reasoning_of
from synth.core.readers import Unreadable, json_value, kind_of
from synth.core.record import canonical_json

# What a turn's speaker is called, and what it is called here.
_SPEAKERS = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response", "ipython"), "tool"),
}
_READ = {"role", "from", "content", "value", "tool_calls", "function_call", *REASONING_FIELDS}


@dataclass(slots=True)
class Turn:
    """One turn."""

    role: str  # system, user, assistant or tool
    content: str  # its text; calls of tools follow it as JSON
    reasoning: str | None = None  # where it has a field or parts of its own
    rest: dict[str, Any] = field(default_factory=dict)  # what else the turn holds


def read_turns(value: Any) -> list[Turn]:
    """Reads a cell of turns: a list of objects, the same as JSON text, or an object of lists.

    Raises Unreadable where it holds something else, or a turn that is not text.
    """
    if isinstance(value, str):
        try:
            value = parse_json(value.encode("utf-8", "surrogatepass"))
        except ValueError as error:
            raise Unreadable("no messages: text that is not JSON") from error
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        if len({len(items) for items in value.values()}) > 1:
            raise Unreadable("no messages: lists of different lengths")
        rows = zip(*value.values(), strict=True)
        value = [dict(zip(value, items, strict=True)) for items in rows]
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else kind_of(value)
        raise Unreadable(f"no messages: {what}, not a list of turns")
    return [_turn(item) for item in value]


def _turn(item: Any) -> Turn:
    if not isinstance(item, dict):
        raise Unreadable(f"no messages: a turn is {kind_of(item)}")
    speaker = item.get("role") or item.get("from")
    role = _SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        name = speaker if isinstance(speaker, str) else kind_of(speaker)
        raise Unreadable(f"unknown role: {name[:50]}")
    content = item.get("content")
    if content is None:
        content = item.get("value")
    is_call = str(speaker).lower() == "function_call"  # its text is the call
    if len(item) == 2 and isinstance(content, str):  # most turns by far
        return Turn(role, content, rest={"tool_calls": content} if is_call else {})
    reasoning = reasoning_of(item) or None
    if isinstance(content, list):
        content, thought = _parts(content)
        reasoning = reasoning or thought
    if not content and isinstance(item.get("refusal"), str):
        content = item["refusal"]
    calls = item.get("tool_calls") or item.get("function_call")
    if calls and isinstance(content, str | None):
        text = canonical_json(json_value(calls))
        content = f"{content}\n{text}" if content else text
    if content is None and reasoning is not None:
        content = ""
    if not isinstance(content, str):
        raise Unreadable(f"a turn has no text: it is {kind_of(content)}")
    rest = {name: value for name, value in item.items() if value is not None and name not in _READ}
    if calls or is_call:
        rest["tool_calls"] = json_value(calls) if calls else content
    return Turn(role, content, reasoning, rest)


def _parts(parts: list[Any]) -> tuple[str, str | None]:
    """Returns text and thinking of content that is a list of parts."""
    text, thought, unread = read_parts(parts)
    if unread:
        raise Unreadable(f"a turn is not text: a part is {unread[0][:50]}")
    return text, thought or None
