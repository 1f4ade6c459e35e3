"""Replies: stored responses, and how pieces of an answer become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from synth.core.reasoning import is_cut, parse_completion, split_trace, whole_text
from synth.core.record import Message, Request


@dataclass(slots=True)
class Reply:
    """One stored response: its key, the raw completion, and the seconds it took."""

    key: str
    raw: dict[str, Any]
    latency: float

    @property
    def cut(self) -> bool:
        """Whether the response was cut off at the limit on its tokens."""
        return is_cut(parse_completion(self.raw)[2])


def continuation(request: Request, messages: list[Message], replies: Sequence[Reply]) -> Request:
    """Return the request that continues an answer which was cut off.

    The parameters are vLLM's; teachers of other endpoints translate them.
    """
    prefix = Message(role="assistant", content="".join(whole_text(reply.raw) for reply in replies))
    sampling = request.sampling | {"continue_final_message": True, "add_generation_prompt": False}
    return replace(request, messages=[*messages, prefix], sampling=sampling)


def merged(replies: Sequence[Reply]) -> tuple[str | None, str, str]:
    """Return reasoning, answer and finish reason of an answer in one piece or in several."""
    if len(replies) == 1:
        return parse_completion(replies[0].raw)
    text = "".join(whole_text(reply.raw) for reply in replies)
    return (*split_trace(text), parse_completion(replies[-1].raw)[2])
