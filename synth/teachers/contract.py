"""What every teacher is: something that answers one request with a raw chat completion.

The raw response has OpenAI's chat-completion form whatever the teacher, so that one store holds
them all and one parser reads them all (`synth.reasoning.parse_completion`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import Field

from synth.plugins import PluginConfig
from synth.record import Message, Task


class Price(PluginConfig):
    """What tokens cost, in US dollars a million."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Dollars for one response."""
        return (self.input * prompt_tokens + self.output * completion_tokens) / 1e6


class TeacherConfig(PluginConfig):
    """Options that every teacher has.

    A teacher's module defines `class Config(TeacherConfig)` and `build(config, name) -> Teacher`.
    """

    price: Price | None = Field(None, description="Dollars a million tokens; no figure without it")


@dataclass(frozen=True, slots=True)
class Request:
    """One sample of one question.

    Attributes:
        messages: What is sent.
        sampling: OpenAI's parameter names (temperature, top_p, max_tokens, stop, seed, ...).
        sample: Which sample of the question this is, from 0.
        task: The question itself, for teachers that make their answers up (`fake`).
    """

    messages: list[Message]
    sampling: dict[str, Any] = field(default_factory=dict)
    sample: int = 0
    task: Task | None = None


class Retry(Exception):
    """This attempt failed and another may not.

    Args:
        reason: Short; groups by what stands before its first colon.
        after: Seconds that the endpoint asked to wait, where it did.
        unreachable: Nothing answered at all: before the first success this means a wrong address.
    """

    def __init__(self, reason: str, after: float | None = None, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.after, self.unreachable = reason, after, unreachable


class Refused(Exception):
    """The endpoint will never answer this request; the others go on."""


class Teacher(Protocol):
    """An endpoint. A `DistillError` raised from `complete` stops the run (wrong key or model).

    Attributes:
        identity: All that makes this endpoint answer as it does (kind, address, model, ...), as
            JSON values; part of every key in the response store. Holds no secret.
    """

    identity: dict[str, Any]

    async def complete(self, request: Request) -> dict[str, Any]:
        """Answers one request with a raw chat completion, or raises `Retry` or `Refused`."""
        ...

    async def close(self) -> None:
        """Gives back connections, threads and memory."""
        ...
