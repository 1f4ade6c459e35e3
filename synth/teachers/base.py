"""What every teacher is: something that answers one request with a raw chat completion.

The raw response has OpenAI's chat-completion form whatever the teacher, so that one store holds
them all and one parser reads them all (`synth.core.reasoning.parse_completion`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import Field

from synth.core.plugins import PluginConfig
from synth.core.record import Request
from synth.core.usage import Price


class Cap(PluginConfig):
    """Most that may be spent; what is not set is not capped. Counted over all reruns of a run."""

    usd: float | None = Field(None, gt=0, description="Dollars, by the prices of the teachers")
    tokens: int | None = Field(None, gt=0, description="Tokens, of prompts and answers together")


class TeacherConfig(PluginConfig):
    """Options that every teacher has.

    A teacher's module defines `class Config(TeacherConfig)` and `build(config, name) -> Teacher`.
    None of these changes an answer, so none is in a key of the response store.
    """

    price: Price | None = Field(
        None, description="Dollars a million tokens; a known model has a dated default"
    )
    reasoning: bool = Field(
        False, description="It reasons: a first answer without reasoning stops the run at once"
    )
    concurrency: int | None = Field(
        None, ge=1, description="Most requests in flight to it; generate.concurrency by default"
    )
    rpm: float | None = Field(None, gt=0, description="Most requests a minute")
    tpm: float | None = Field(None, gt=0, description="Most tokens a minute, prompt and answer")
    budget: Cap | None = Field(None, description="Most that this run may spend on this teacher")
    weight: float = Field(1.0, gt=0, description="Share of the answers, with route: weights")
    samples: int | None = Field(
        None, ge=1, description="Most answers a question from it, with route: cascade"
    )

    @classmethod
    def shared(cls) -> set[str]:
        """Names of the options that all teachers have: how it is asked, not what it answers."""
        return set(TeacherConfig.model_fields)


Trouble = Literal["rate limit", "outage", "malformed"]


class RetryableError(Exception):
    """This attempt failed and another may not.

    Args:
        reason: Short; groups by what stands before its first colon.
        after: Seconds that the endpoint asked to wait, where it did.
        unreachable: Nothing answered at all: before the first success this means a wrong address.
        trouble: `rate limit`: fewer requests at a time would be answered. `outage`: the endpoint
            is ill (5xx, time-out, no connection). `malformed`: it answered, but not sense.
    """

    def __init__(
        self,
        reason: str,
        after: float | None = None,
        unreachable: bool = False,
        trouble: Trouble = "outage",
    ) -> None:
        super().__init__(reason)
        self.reason, self.after, self.unreachable = reason, after, unreachable
        self.trouble = trouble


class RequestRejected(Exception):
    """The endpoint will never answer this request; the others go on."""


@dataclass(frozen=True, slots=True)
class Advertised:
    """What an endpoint said of its limits with its last response (`x-ratelimit-*` headers).

    Attributes:
        requests: Requests that are left now; `requests_at` is the monotonic time at which the
            allowance is whole again. None is not said.
        tokens: Tokens that are left, and `tokens_at` likewise.
    """

    requests: int | None = None
    requests_at: float = 0.0
    tokens: int | None = None
    tokens_at: float = 0.0

    def wait(self) -> float:
        """Seconds until a request may be sent by what was said; 0 where one may."""
        now, ends = time.monotonic(), [0.0]
        if self.requests == 0:
            ends.append(self.requests_at)
        if self.tokens == 0:
            ends.append(self.tokens_at)
        return max(0.0, max(ends) - now)


class Teacher(Protocol):
    """An endpoint. A `DistillError` raised from `complete` says that it will answer nothing more.

    `UserError`: a wrong key, model or address; `Unfinished`: quota or balance used up.

    Attributes:
        identity: All that makes this endpoint answer as it does (kind, address, model, ...), as
            JSON values; part of every key in the response store. Holds no secret.

    A teacher may also have:
        advertised: An `Advertised`, renewed with each response.
        attach(store, run): Called once before the first request with the response store and the
            name under which the run buys, for teachers that keep state in it (`openai_batch`).
        opens_wide: True where as many requests as may be in flight are wanted at once: it proves
            the key and the address by itself.
        let_go(): The run stops: whatever waits for hours is to raise a `DistillError` now.
        at_once(): Only a few requests will come and someone waits for them.
    """

    identity: dict[str, Any]

    async def complete(self, request: Request) -> dict[str, Any] | bytes:
        """Returns the raw chat completion of one request.

        Returns:
            The completion as JSON values, or as the bytes in which it came (stored as they are).
            Where `request.sampling` asks for `top_logprobs`, a dict may hold the soft labels
            under `labels` as a `synth.core.logprobs.Labels`; else they are read from
            `choices[0].logprobs` in OpenAI's form.
        """
        ...

    async def close(self) -> None:
        """Gives back connections, threads and memory."""
        ...


# Attempts to reach an endpoint that has not answered yet: more would only delay the message.
FIRST_ATTEMPTS = 3


LONGEST_PAUSE_S = 60.0
