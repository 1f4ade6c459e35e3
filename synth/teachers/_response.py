"""The raw response of a chat completion: parsing it, and packing its logprobs for the store."""

from __future__ import annotations

import json
from typing import Any

from synth.core.compression import parse_json
from synth.core.logprobs import TopLogprobs, pack, take_labels
from synth.core.reasoning import parse_completion
from synth.core.record import Request
from synth.teachers.base import RetryableError


def parse_answer(
    answer: dict[str, Any] | bytes, request: Request
) -> tuple[dict[str, Any], bytes, bytes | None]:
    """What a teacher returned, as JSON values, as bytes for the store, and its soft labels packed.

    Raises:
        Retry: It is no chat completion, or lacks the soft labels that were asked for.
    """
    if isinstance(answer, bytes):
        try:
            raw, body = parse_json(answer), answer
        except ValueError as error:
            raise _malformed(f"not JSON ({str(error)[:100]})") from error
        if not isinstance(raw, dict):
            raise _malformed("not a JSON object")
    else:
        raw, body = answer, b""
    try:
        parse_completion(raw)
    except ValueError as error:
        raise _malformed(str(error)) from error
    if not request.sampling.get("top_logprobs"):
        return raw, body or _dumped(raw), None
    given = raw.pop("labels", None)
    try:
        labels = given if isinstance(given, TopLogprobs) else take_labels(raw)
    except ValueError as error:
        raise _malformed(f"soft labels: {error}") from error
    return raw, _dumped(raw), pack(labels)


def _dumped(raw: dict[str, Any]) -> bytes:
    return json.dumps(raw).encode()  # ASCII: lone surrogates stay as escapes


def _malformed(what: str) -> RetryableError:
    return RetryableError(f"malformed response: {what}", trouble="malformed")
