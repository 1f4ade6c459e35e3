"""The raw response of a chat completion: parsing it, and its logprobs as soft labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from synth.core.compression import parse_json
from synth.core.finish_reasons import no_answer
from synth.core.logprobs import TopLogprobs, pack, take_labels
from synth.core.record import Request
from synth.teachers.base import RequestRejected, RetryableError


def parse_answer(
    answer: dict[str, Any] | bytes, request: Request, empty_is_answer: bool = False
) -> tuple[dict[str, Any], bytes, bytes | None]:
    """Return an answer as JSON values, as bytes for the store, and its soft labels packed.

    Raises:
        RetryableError: It is no chat completion, was broken off by the API, is empty (and
            `empty_is_answer` is false), or lacks the soft labels that were asked for.
        RequestRejected: The API or the model refused to answer.
    """
    if isinstance(answer, bytes):
        raw, body = json_object(answer), answer
    else:
        raw, body = answer, b""
    check_answer(raw, empty_is_answer)
    if not request.sampling.get("top_logprobs"):
        return raw, body or _dumped(raw), None
    given = raw.pop("labels", None)
    try:
        labels = given if isinstance(given, TopLogprobs) else take_labels(raw)
    except ValueError as error:
        raise malformed(f"soft labels: {error}") from error
    return raw, _dumped(raw), pack(labels)


def check_answer(raw: dict[str, Any], empty_is_answer: bool = False) -> None:
    """Raise what `parse_answer` raises where a completion is no answer."""
    try:
        problem = no_answer(raw, empty_is_answer)
    except ValueError as error:
        raise malformed(str(error)) from error
    if problem is None:
        return
    if not problem.passes:
        raise RequestRejected(problem.reason)
    raise malformed(problem.reason) if problem.empty else RetryableError(problem.reason)


def with_labels(
    answer: dict[str, Any] | bytes,
    id_of: Callable[[dict[str, Any]], int | None] | None = None,
    width: int | None = None,
) -> dict[str, Any]:
    """Return an answer with its soft labels read: ids by `id_of`, and the `width` likeliest."""
    try:
        raw = parse_json(answer) if isinstance(answer, bytes) else answer
        labels = take_labels(raw, id_of)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise malformed(f"soft labels: {error}") from error
    labels.top_ids = labels.top_ids[:, :width]
    labels.top_logprobs = labels.top_logprobs[:, :width]
    return {**raw, "labels": labels}


def json_object(answer: dict[str, Any] | bytes) -> dict[str, Any]:
    """Return an answer's JSON object. Raises RetryableError where it is none."""
    if isinstance(answer, dict):
        return answer
    try:
        values = parse_json(answer)
    except ValueError as error:
        raise malformed(f"not JSON ({str(error)[:100]})") from error
    if not isinstance(values, dict):
        raise malformed("not a JSON object")
    return values


def _dumped(raw: dict[str, Any]) -> bytes:
    return json.dumps(raw).encode()  # ASCII: lone surrogates stay as escapes


def malformed(what: str) -> RetryableError:
    """Return the error for an answer that makes no sense."""
    return RetryableError(f"malformed response: {what}", trouble="malformed")
