"""Anthropic's messages as chat completions, and its errors as statuses."""

from __future__ import annotations

import json
from typing import Any

from synth.teachers._response import malformed

# What the stop reasons are in OpenAI's words; a turn that was paused is no whole answer.
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "pause_turn": "error",
}
# The status that each type of error comes with where it has one of its own.
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def error_status(error: Any) -> tuple[int, bytes]:
    """Return the status and the body that an error inside a stream or a batch stands for."""
    error = error if isinstance(error, dict) else {"message": str(error)}
    status = _STATUS.get(str(error.get("type")), 500)
    return status, json.dumps({"type": "error", "error": error}).encode()


def completion_of(message: dict[str, Any]) -> dict[str, Any]:
    """Return the chat completion that a message is in another form.

    Raises:
        RetryableError: It is no message, or one that has not ended.
    """
    content, reason = message.get("content"), message.get("stop_reason")
    if not isinstance(content, list) or not isinstance(reason, str):
        raise malformed("no message with content and stop_reason")
    blocks = [block for block in content if isinstance(block, dict)]
    answer: dict[str, Any] = {"role": "assistant", "content": _text(blocks, "text")}
    if thinking := _text(blocks, "thinking"):
        answer["reasoning"] = thinking
    if calls := [_call(block) for block in blocks if block.get("type") == "tool_use"]:
        answer["tool_calls"] = calls
    finish = _FINISH.get(reason, reason)
    return {
        "id": message.get("id"),
        "object": "chat.completion",
        "model": message.get("model"),
        "choices": [{"index": 0, "message": answer, "finish_reason": finish}],
        "usage": _usage(message.get("usage")),
        "native": message,  # with the signatures of thinking, and what of it is redacted
    }


def _text(blocks: list[dict[str, Any]], kind: str) -> str:
    texts = [block.get(kind) for block in blocks if block.get("type") == kind]
    return "".join(text for text in texts if isinstance(text, str))


def _call(block: dict[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(block.get("input"), ensure_ascii=False)
    function = {"name": block.get("name"), "arguments": arguments}
    return {"id": block.get("id"), "type": "function", "function": function}


def _usage(usage: Any) -> dict[str, Any] | None:
    """Return the usage in OpenAI's form: the prompt with what of it was cached."""
    if not isinstance(usage, dict):
        return None
    read = usage.get("cache_read_input_tokens") or 0
    parts: list[Any] = [
        usage.get("input_tokens"),
        read,
        usage.get("cache_creation_input_tokens") or 0,
    ]
    whole = all(isinstance(part, int) for part in parts)
    prompt, completion = sum(parts) if whole else parts[0], usage.get("output_tokens")
    renamed: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": read},
    }
    details = usage.get("output_tokens_details")
    if isinstance(details, dict) and "thinking_tokens" in details:
        thinking = {"reasoning_tokens": details["thinking_tokens"]}
        renamed["completion_tokens_details"] = thinking
    return renamed


class MessageJoiner:
    """Makes one message of the events of its stream."""

    def __init__(self) -> None:
        self._message: dict[str, Any] | None = None
        self._blocks: dict[int, dict[str, Any]] = {}
        self._partial_json: dict[int, str] = {}
        self._ended = False

    def add(self, name: str, values: dict[str, Any]) -> bool:
        """Take one event; return whether it is the last."""
        kind = values.get("type") or name
        if kind == "error" or (kind is None and values.get("error")):
            self._message, self._ended = {"type": "error", "error": values.get("error")}, True
        elif kind == "message_start" and isinstance(values.get("message"), dict):
            self._message = dict(values["message"])
        elif kind == "message_stop":
            self._ended = True
        elif self._message is None:
            return False  # a ping, or what came before the start
        elif kind == "content_block_start" and isinstance(values.get("content_block"), dict):
            self._blocks[_index(values)] = dict(values["content_block"])
        elif kind == "content_block_delta" and isinstance(values.get("delta"), dict):
            self._add_delta(_index(values), values["delta"])
        elif kind == "message_delta":
            delta, usage = values.get("delta"), values.get("usage")
            self._message |= delta if isinstance(delta, dict) else {}
            before = self._message.get("usage")
            known = usage.items() if isinstance(usage, dict) else ()
            self._message["usage"] = {
                **(before if isinstance(before, dict) else {}),
                **{name: value for name, value in known if value is not None},
            }
        return self._ended

    def result(self) -> dict[str, Any] | None:
        """Return the message, or None where the stream was cut before its last event."""
        if not self._ended or self._message is None:
            return None
        if self._message.get("type") == "error":
            return self._message
        for index, text in self._partial_json.items():
            self._blocks[index]["input"] = _parsed(text)
        return {**self._message, "content": [self._blocks[i] for i in sorted(self._blocks)]}

    def _add_delta(self, index: int, delta: dict[str, Any]) -> None:
        block = self._blocks.setdefault(index, {"type": "text", "text": ""})
        kind = delta.get("type")
        if kind == "input_json_delta":
            piece = delta.get("partial_json")
            piece = piece if isinstance(piece, str) else ""
            self._partial_json[index] = self._partial_json.get(index, "") + piece
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta.get("citation")]
        else:
            for name, piece in delta.items():
                if name != "type" and isinstance(piece, str):
                    before = block.get(name)
                    block[name] = (before if isinstance(before, str) else "") + piece


def _index(values: dict[str, Any]) -> int:
    index = values.get("index")
    return index if isinstance(index, int) else 0


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise malformed("the arguments of a call are no JSON") from error
