"""A deterministic teacher that answers from the reference, with faults on demand.

For dry runs and tests: what a run does when answers are wrong, cut off, refused or late can be
tried before any money is spent. Its answers are made up and say so in the model's name.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from typing import Any

from pydantic import Field

from synth.core.record import Request, canonical_json
from synth.teachers.base import RequestRejected, RetryableError, Teacher, TeacherConfig


class Config(TeacherConfig):
    """How often things go right and wrong; shares from 0 to 1."""

    accuracy: float = Field(0.7, ge=0, le=1, description="Share of answers equal to the reference")
    truncated: float = Field(0.0, ge=0, le=1, description="Share cut off at the token limit")
    untagged: float = Field(0.0, ge=0, le=1, description="Share without a think block")
    errors: float = Field(
        0.0, ge=0, le=1, description="Share of attempts that fail and may be retried"
    )
    refused: float = Field(0.0, ge=0, le=1, description="Share of requests refused for good")
    latency_s: float = Field(0.0, ge=0, description="Seconds that an answer takes")
    seed: int = 0


def build(config: Config, name: str) -> FakeTeacher:
    """Build the teacher."""
    return FakeTeacher(config)


class FakeTeacher(Teacher):
    """Answers from the reference, or fails, by the shares of its options."""

    empty_answers = True

    def __init__(self, config: Config) -> None:
        self._config = config
        # Latency and passing failures change when an answer comes, not what it says.
        decisive = config.model_dump(exclude={"latency_s", "errors", *Config.shared()})
        self.identity: dict[str, Any] = {"kind": "fake", **decisive}
        self._attempts: Counter[str] = Counter()

    async def complete(self, request: Request) -> dict[str, Any]:
        """Make up an answer. The same request is always answered alike."""
        config = self._config
        key = canonical_json([request.messages, request.sampling, request.sample, config.seed])
        self._attempts[key] += 1
        await asyncio.sleep(config.latency_s)
        if _draw(key, "error", self._attempts[key]) < config.errors:
            raise RetryableError("made-up failure: 503")
        del self._attempts[key]
        if _draw(key, "refused") < config.refused:
            raise RequestRejected("made-up refusal: 400")
        reference = request.task.answer if request.task else None
        right = reference is not None and _draw(key, "right") < config.accuracy
        result = reference if right else str(int(_draw(key, "wrong") * 10_000))
        text = f"The answer is \\boxed{{{result}}}."
        if _draw(key, "untagged") >= config.untagged:
            length = len(request.messages[-1]["content"])
            steps = f"The question has {length} characters.\nSo it is {result}."
            text = f"<think>\n{steps}\n</think>\n\n{text}"
        cut = _draw(key, "truncated") < config.truncated
        text = text[: len(text) // 2] if cut else text
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "length" if cut else "stop"}
        usage = {
            "prompt_tokens": sum(len(m["content"].split()) for m in request.messages),
            "completion_tokens": len(text.split()),
        }
        return {"model": "fake", "choices": [choice], "usage": usage}


def _draw(*parts: object) -> float:
    """Return a number from 0 to 1 that depends on the parts alone."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big") / 2**56
