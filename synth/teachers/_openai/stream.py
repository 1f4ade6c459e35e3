"""Joins the chunks of a streamed chat completion to the completion that they are pieces of."""

from __future__ import annotations

from typing import Any

from synth.teachers._http.events import DONE

# Texts that come in pieces; of other fields the last value counts.
_PIECES = {"content", "reasoning_content", "reasoning", "thinking", "refusal"}
_PIECES_OF_PARTS = {"text", "thinking", "summary", "data", "signature", "arguments", "reasoning"}


class ChunkJoiner:
    """Makes one chat completion of the chunks of its stream."""

    def __init__(self) -> None:
        self._completion: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._done = False

    def add(self, name: str, values: dict[str, Any]) -> bool:
        """Take one chunk; an error in the middle of a stream is its answer."""
        if name == DONE:
            self._done = True
            return True
        if values.get("error") or values.get("object") == "error" or name == "error":
            self._completion = {"error": values.get("error") or values}
            self._choices, self._done = {}, True
            return True
        for key, value in values.items():
            if key != "choices" and value is not None:
                self._completion[key] = value
        choices = values.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._add_choice(choice)
        return False

    def result(self) -> dict[str, Any] | None:
        """Return the completion, or None where neither `[DONE]` nor a finish reason came."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        finished = choices and all(choice.get("finish_reason") for choice in choices)
        if not self._done and not finished:
            return None
        if "error" in self._completion:
            return self._completion
        return {**self._completion, "object": "chat.completion", "choices": choices}

    def _add_choice(self, chunk: dict[str, Any]) -> None:
        index = chunk.get("index")
        index = index if isinstance(index, int) else 0
        choice = self._choices.setdefault(index, {"index": index, "message": {}})
        if isinstance(message := chunk.get("message"), dict):  # some servers send it whole
            choice["message"] = message
        if isinstance(delta := chunk.get("delta"), dict):
            _add_delta(choice["message"], delta)
        for key, value in chunk.items():
            if key in ("index", "delta", "message") or value is None:
                continue
            before = choice.get(key)
            if key == "logprobs" and isinstance(value, dict) and isinstance(before, dict):
                for name, entries in value.items():
                    _extend(before, name, entries)
            elif isinstance(value, list):
                _extend(choice, key, value)
            else:
                choice[key] = value


def _add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        before = message.get(key)
        if value is None:
            message.setdefault(key, None)
        elif key == "tool_calls" and isinstance(value, list):
            _add_calls(message, value)
        elif key == "function_call" and isinstance(value, dict):
            message[key] = _with_function(before if isinstance(before, dict) else {}, value)
        elif isinstance(value, list):
            _add_parts(message, key, value)
        elif key in _PIECES and isinstance(value, str):
            if isinstance(before, list):
                _add_parts(message, key, [{"type": "text", "text": value}] if value else [])
            else:
                message[key] = (before if isinstance(before, str) else "") + value
        else:
            message[key] = value


def _add_calls(message: dict[str, Any], pieces: list[Any]) -> None:
    """Add pieces of tool calls: one of a new index, or of a new id, begins a new call."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        calls = message["tool_calls"] = []
    for piece in pieces:
        if not isinstance(piece, dict):
            continue
        index, id = piece.get("index"), piece.get("id")
        same = [
            call
            for call in calls
            if (index is None or call.get("index") == index) and (not id or call.get("id") == id)
        ]
        if not same:
            same = [{"index": len(calls) if index is None else index}]
            calls += same
        call = same[-1]
        for key, value in piece.items():
            if key == "function" and isinstance(value, dict):
                call[key] = _with_function(call.get(key) or {}, value)
            elif value is not None and key != "index":
                call[key] = value


def _with_function(before: dict[str, Any], piece: dict[str, Any]) -> dict[str, Any]:
    """Return a function's name and arguments with a piece of them added."""
    function = dict(before)
    for key, value in piece.items():
        if key == "arguments" and isinstance(value, str):
            function[key] = (function.get(key) or "") + value
        elif key == "name" and value and function.get(key) not in (None, value):
            function[key] += value  # in pieces; a server that repeats it means the same
        elif value is not None:
            function[key] = value
    return function


def _add_parts(message: dict[str, Any], key: str, parts: list[Any]) -> None:
    """Add parts of a content or of its reasoning; a piece goes on with the last of its kind."""
    held = message.get(key)
    if isinstance(held, str) and held:
        held = [{"type": "text", "text": held}]
    elif not isinstance(held, list):
        held = []
    message[key] = held
    for part in parts:
        if not isinstance(part, dict):
            held.append(part)
        elif held and isinstance(held[-1], dict) and _goes_on(held[-1], part):
            _add_part(held[-1], part)
        else:
            held.append(dict(part))


def _goes_on(last: dict[str, Any], part: dict[str, Any]) -> bool:
    """Return whether a part is a further piece of the last one."""
    ids = last.get("id"), part.get("id")
    return (
        last.get("type") == part.get("type")
        and last.get("index") == part.get("index")
        and (None in ids or ids[0] == ids[1])
    )


def _add_part(last: dict[str, Any], part: dict[str, Any]) -> None:
    for key, value in part.items():
        if isinstance(value, list):
            _add_parts(last, key, value)
        elif key in _PIECES_OF_PARTS and isinstance(value, str):
            before = last.get(key)
            last[key] = (before if isinstance(before, str) else "") + value
        elif value is not None:
            last[key] = value


def _extend(holder: dict[str, Any], key: str, entries: Any) -> None:
    before = holder.get(key)
    if isinstance(before, list) and isinstance(entries, list):
        before += entries
    elif entries is not None:
        holder[key] = list(entries) if isinstance(entries, list) else entries
