"""Finds the error that an API sent inside a status 200, with the status that it stands for.

Gateways answer 200 before the model's provider has failed (OpenRouter), some APIs always do
(MiniMax), and some send an error in place of a choice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from synth.core.compression import parse_json
from synth.core.finish_reasons import broke_off

# What codes, types and messages without a number of HTTP stand for; the first that fits counts.
_STATUSES = (
    (429, ("insufficient_quota", "rate limit", "rate_limit", "ratelimit", "too many requests")),
    (429, ("throttl", "resource_exhausted", "concurrency")),
    (402, ("insufficient balance", "insufficient credit", "insufficient_balance", "billing")),
    (401, ("invalid_api_key", "invalid api key", "authentication", "unauthenticated")),
    (401, ("unauthorized",)),
    (404, ("model_not_found", "model not found", "not_found", "no allowed providers")),
    (400, ("context_length", "context length", "content_policy", "content_filter", "moderation")),
    (400, ("data_inspection_failed", "sensitive", "invalid_argument", "invalid_request")),
    (400, ("invalidparameter", "invalid_parameter", "invalid_prompt", "bad request")),
)
_UNKNOWN = 500  # nothing is said of what it is: it may pass
# base_resp.status_code of MiniMax; others than these may pass.
_MINIMAX = {
    1002: 429, 1004: 401, 1008: 402, 1026: 400, 1027: 400, 1039: 429, 1041: 429, 1042: 400,
    2013: 400, 2049: 401,
}  # fmt: skip
_NAMES = ("code", "status", "status_code", "http_status")


class InnerError(NamedTuple):
    """An error as a status of its own would have brought it."""

    status: int
    headers: dict[str, str]
    body: bytes  # {"error": {"message": ..., "code": ..., "type": ...}}


def error_inside(answer: bytes | Mapping[str, Any]) -> InnerError | None:
    """Return the error that an answer of status 200 holds, or None where it holds none.

    >>> error_inside({"error": {"code": 429, "message": "slow down"}}).status
    429
    """
    if isinstance(answer, bytes):
        # Quotes inside a text are escaped, so these keys show without reading the whole.
        if b'"choices"' in answer and b'"error"' not in answer and b'"base_resp"' not in answer:
            return None
        try:
            answer = parse_json(answer)
        except ValueError:
            return None
    if not isinstance(answer, Mapping):
        return None
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, dict) and choice.get("error"):
        return _inner(choice["error"])
    finish = choice.get("finish_reason") if isinstance(choice, dict) else None
    whole = isinstance(choice, dict) and choice.get("message") and isinstance(finish, str)
    if whole and not broke_off(str(finish)):
        return None  # an answer to its end: what else is said is a remark
    if error := answer.get("error"):
        return _inner(error)
    base = answer.get("base_resp")
    if isinstance(base, dict) and base.get("status_code"):
        code, text = base["status_code"], base.get("status_msg")
        status = _MINIMAX.get(code, _UNKNOWN) if isinstance(code, int) else _UNKNOWN
        return _inner({"message": text, "code": code}, status)
    if choice is None and any(isinstance(answer.get(k), str) for k in ("message", "detail", "msg")):
        return _inner(answer)
    return None


def _inner(error: Any, status: int | None = None) -> InnerError:
    values: Mapping[str, Any] = error if isinstance(error, Mapping) else {"message": error}
    metadata = values.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    texts = [
        values.get("message") or values.get("detail") or values.get("msg") or "no reason given"
    ]
    texts += [metadata["raw"]] if metadata.get("raw") else []  # the words of the model's provider
    message = ": ".join(text if isinstance(text, str) else json.dumps(text) for text in texts)
    headers = metadata.get("headers")
    code, kind = values.get("code"), values.get("type")
    body = {"message": f"{message} (an error inside a status 200)", "code": code, "type": kind}
    body |= {name: values[name] for name in ("param", "details") if values.get(name)}
    return InnerError(
        _status(values, message) if status is None else status,
        {str(k).lower(): str(v) for k, v in headers.items()} if isinstance(headers, dict) else {},
        json.dumps({"error": body}).encode(),
    )


def _status(error: Mapping[str, Any], message: str) -> int:
    values = [error.get(name) for name in _NAMES]
    for value in values:
        number = (
            int(value)
            if isinstance(value, str) and value.isdecimal() and len(value) == 3
            else value
        )
        if isinstance(number, int) and 300 <= number < 600:
            return number
    text = f"{values} {error.get('type')} {message}".lower()
    found = (status for status, words in _STATUSES if any(word in text for word in words))
    return next(found, _UNKNOWN)
