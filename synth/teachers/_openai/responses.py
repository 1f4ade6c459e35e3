"""Responses of OpenAI's Responses API as chat completions, and its errors as statuses."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from synth.teachers._http.events import DONE
from synth.teachers._response import malformed

_FINISH = {"max_output_tokens": "length", "content_filter": "content_filter"}
# Statuses that a code of a failed response stands for; any other code refuses the request.
_STATUS = {"server_error": 500, "rate_limit_exceeded": 429, "vector_store_timeout": 504}


class ResponseError(NamedTuple):
    """What an error inside a response would be as a status and a body."""

    status: int
    body: bytes


class FinalResponse:
    """Takes the whole response out of the last event of a stream."""

    def __init__(self) -> None:
        self._response: dict[str, Any] | None = None

    def add(self, name: str, values: dict[str, Any]) -> bool:
        """Take one event; return whether it is the last."""
        kind = values.get("type") or name
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            response = values.get("response")
            if not isinstance(response, dict):
                raise malformed(f"the event {kind} holds no response")
            self._response = response
        elif kind == "error" or values.get("error"):
            error = values.get("error")
            error = error if isinstance(error, dict) else values
            self._response = {"status": "failed", "error": error}
        return self._response is not None or name == DONE

    def result(self) -> dict[str, Any] | None:
        """Return the response, or None where the stream was cut before it."""
        return self._response


def error_of(response: dict[str, Any]) -> ResponseError | None:
    """Return the error that a response holds, or None."""
    error = response.get("error")
    if not error and response.get("status") != "failed":
        return None
    error = error if isinstance(error, dict) else {"message": str(error or "failed")}
    code = error.get("code")
    if isinstance(code, int) and 400 <= code < 600:
        status = code
    else:
        status = _STATUS.get(str(code), 500 if code is None else 400)
    return ResponseError(status, json.dumps({"error": error}).encode())


def completion_of(response: dict[str, Any]) -> dict[str, Any]:
    """Return the chat completion that a response is in another form.

    Raises:
        RetryableError: It is no response that has ended.
    """
    status, output = response.get("status"), response.get("output")
    if status not in ("completed", "incomplete") or not isinstance(output, list):
        raise malformed(f"no response that has ended (status {status!r})")
    items = [item for item in output if isinstance(item, dict)]
    parts = [
        part for item in items if item.get("type") == "message" for part in _dicts(item, "content")
    ]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(_texts(parts, "output_text", "text")),
    }
    if reasoning := _reasoning(items):
        message["reasoning"] = reasoning
    if refusal := "".join(_texts(parts, "refusal", "refusal")):
        message["refusal"] = refusal
    if calls := [_call(item) for item in items if item.get("type") == "function_call"]:
        message["tool_calls"] = calls
    finish = "tool_calls" if calls else "stop"
    if status == "incomplete":
        details = response.get("incomplete_details")
        reason = str(details.get("reason")) if isinstance(details, dict) else "error"
        finish = _FINISH.get(reason, reason)
    elif refusal and not message["content"]:
        finish = "content_filter"
    return {
        "id": response.get("id"),
        "object": "chat.completion",
        "created": response.get("created_at"),
        "model": response.get("model"),
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": _usage(response.get("usage")),
        "native": response,
    }


def _reasoning(items: list[dict[str, Any]]) -> str:
    """Return the reasoning itself where it was given, else its summaries."""
    thoughts = [item for item in items if item.get("type") == "reasoning"]
    whole = [text for item in thoughts for text in _texts(_dicts(item, "content"), "", "text")]
    summed = [text for item in thoughts for text in _texts(_dicts(item, "summary"), "", "text")]
    return "".join(whole) or "\n\n".join(summed)


def _call(item: dict[str, Any]) -> dict[str, Any]:
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    return {"id": item.get("call_id"), "type": "function", "function": function}


def _dicts(item: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = item.get(key)
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _texts(parts: list[dict[str, Any]], kind: str, key: str) -> list[str]:
    """Return the texts of all parts of a kind; "" is every kind."""
    values = [part.get(key) for part in parts if not kind or part.get("type") == kind]
    return [value for value in values if isinstance(value, str)]


def _usage(usage: Any) -> dict[str, Any] | None:
    if not isinstance(usage, dict):
        return None
    renamed = {"prompt_tokens": usage.get("input_tokens"),
               "completion_tokens": usage.get("output_tokens"),
               "total_tokens": usage.get("total_tokens")}  # fmt: skip
    for name, own in (("prompt", "input"), ("completion", "output")):
        if isinstance(details := usage.get(f"{own}_tokens_details"), dict):
            renamed[f"{name}_tokens_details"] = details
    return renamed
