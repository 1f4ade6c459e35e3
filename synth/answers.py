"""From what a teacher returned to what is stored, and from stored pieces to one trace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from synth.core.compression import parse_json
from synth.core.logprobs import Labels, pack, take_labels
from synth.core.reasoning import is_cut, parse_completion, split_trace, whole_text
from synth.core.record import Message, Request
from synth.teachers.contract import Retry


@dataclass(slots=True)
class Reply:
    """One stored response: its key, the raw completion, and the seconds it took."""

    key: str
    raw: dict[str, Any]
    latency: float

    @property
    def cut(self) -> bool:
        """Whether it was cut off at the limit on its tokens."""
        return is_cut(parse_completion(self.raw)[2])


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
        labels = given if isinstance(given, Labels) else take_labels(raw)
    except ValueError as error:
        raise _malformed(f"soft labels: {error}") from error
    return raw, _dumped(raw), pack(labels)


def _dumped(raw: dict[str, Any]) -> bytes:
    return json.dumps(raw).encode()  # ASCII: lone surrogates stay as escapes


def _malformed(what: str) -> Retry:
    return Retry(f"malformed response: {what}", trouble="malformed")


def continuation(request: Request, messages: list[Message], replies: Sequence[Reply]) -> Request:
    """The request to write on from where an answer was cut off.

    The parameters are vLLM's; teachers of other endpoints translate them.
    """
    so_far = Message(role="assistant", content="".join(whole_text(reply.raw) for reply in replies))
    sampling = request.sampling | {"continue_final_message": True, "add_generation_prompt": False}
    return replace(request, messages=[*messages, so_far], sampling=sampling)


def merged(replies: Sequence[Reply]) -> tuple[str | None, str, str]:
    """Reasoning, answer and finish reason of an answer that came in one piece or in several."""
    if len(replies) == 1:
        return parse_completion(replies[0].raw)
    text = "".join(whole_text(reply.raw) for reply in replies)
    return (*split_trace(text), parse_completion(replies[-1].raw)[2])
