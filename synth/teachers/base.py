"""Base class of the teachers: an endpoint that answers a request with a raw chat completion.

The raw response has OpenAI's chat-completion form whatever the teacher, so that one store holds
them all and one parser reads them all (`synth.core.reasoning.parse_completion`).
"""

from __future__ import annotations

import abc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from synth.core.errors import DistillError
from synth.core.plugins import PluginConfig
from synth.core.record import Request
from synth.core.usage import Price

if TYPE_CHECKING:
    from synth.store.responses import ResponseStore

# Attempts to reach an endpoint that has not answered yet: more would only delay the message.
FIRST_ATTEMPTS = 3
# Longest pause between two attempts, in seconds, where the endpoint names none.
LONGEST_PAUSE_S = 60.0


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
        """Return names of the options that all teachers have: they change no answer."""
        return set(TeacherConfig.model_fields)


Trouble = Literal["rate limit", "outage", "malformed"]


@dataclass(frozen=True, slots=True)
class TeacherFault:
    """What a failure means where it is not of one request, but of every request.

    Attributes:
        error: What the user reads then.
        first: So many different requests must fail so, before the first answer, to mean it.
        later: Whether many different requests in a row mean it after the first answer, too.
    """

    error: DistillError
    first: int = 1
    later: bool = True


class RetryableError(Exception):
    """This attempt failed and another may not.

    Args:
        reason: Short; groups by what stands before its first colon.
        after: Seconds that the endpoint asked to wait, where it did.
        unreachable: Nothing answered: before the first success this means a wrong address.
        trouble: `rate limit`: fewer requests at a time would be answered. `outage`: 5xx, time-out
            or no connection. `malformed`: the answer makes no sense.
        if_all: What it means where every request fails so.
    """

    def __init__(
        self,
        reason: str,
        after: float | None = None,
        unreachable: bool = False,
        trouble: Trouble = "outage",
        if_all: TeacherFault | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason, self.after, self.unreachable = reason, after, unreachable
        self.trouble, self.if_all = trouble, if_all


class RequestRejected(Exception):
    """The endpoint will never answer this request; the others go on.

    `if_all` is what it means where every request is refused so.
    """

    def __init__(self, reason: str, if_all: TeacherFault | None = None) -> None:
        super().__init__(reason)
        self.if_all = if_all


@dataclass(frozen=True, slots=True)
class Advertised:
    """What an endpoint said of its limits with its last response (`x-ratelimit-*` headers).

    So many `requests` and `tokens` are left (None: not said); each allowance is whole again at the
    monotonic time beside it.
    """

    requests: int | None = None
    requests_at: float = 0.0
    tokens: int | None = None
    tokens_at: float = 0.0

    def wait(self) -> float:
        """Return seconds until a request may be sent by what was said; 0 where one may."""
        now, ends = time.monotonic(), [0.0]
        if self.requests == 0:
            ends.append(self.requests_at)
        if self.tokens == 0:
            ends.append(self.tokens_at)
        return max(0.0, max(ends) - now)


class Teacher(abc.ABC):
    """Base class of all teachers: one endpoint that answers requests.

    A `DistillError` raised from `complete` says that the endpoint will answer nothing more.
    `UserError`: a wrong key, model or address. `Unfinished`: quota or balance used up.

    Attributes:
        identity: All that makes this endpoint answer as it does (kind, address, model, ...), as
            JSON values; part of every key in the response store. Holds no secret.
        name: Its name in the config, for hints in messages; set by who asks it.
        skip_probe: True where as many requests as may be in flight are wanted at once, without a
            first one that proves key and address: the teacher proves them by itself.
        empty_answers: True where an empty answer is what the model wrote. Elsewhere it was lost on
            the way, and the request is asked again.
        advertised: The endpoint's rate limits, renewed with each response; None if not known.
        longest_s: Seconds after which an answer is given up, where the endpoint is paid for.

    Example:
        >>> class Echo(Teacher):
        ...     identity = {"kind": "echo"}
        ...
        ...     async def complete(self, request):
        ...         message = {"role": "assistant", "content": request.messages[-1]["content"]}
        ...         return {"choices": [{"message": message, "finish_reason": "stop"}]}
    """

    identity: dict[str, Any]
    name: str = "NAME"
    skip_probe: bool = False
    empty_answers: bool = False
    advertised: Advertised | None = None
    longest_s: float | None = None

    @abc.abstractmethod
    async def complete(self, request: Request) -> dict[str, Any] | bytes:
        """Return the raw chat completion of one request.

        Returns:
            The completion as JSON values, or as the bytes in which it came (stored as they are).
            Where `request.sampling` asks for `top_logprobs`, a dict may hold the soft labels
            under `labels` as a `synth.core.logprobs.TopLogprobs`; else they are read from
            `choices[0].logprobs` in OpenAI's form.

        Raises:
            RetryableError: This attempt failed, and another may not.
            RequestRejected: This request is never answered.
            DistillError: No request is answered any more.
        """

    def open(self, store: ResponseStore, run: str) -> None:  # noqa: B027
        """Prepare for the first request; called once, in the event loop.

        A teacher may keep state in the store (`openai_batch`). `run` is the name of who buys.
        """

    def cancel_pending(self) -> None:  # noqa: B027
        """Raise a `DistillError` in each call that waits for long: the run stops."""

    def disable_batching(self) -> None:  # noqa: B027
        """Answer at once from now on: only a few requests come, and someone waits for them."""

    async def close(self) -> None:  # noqa: B027
        """Give back connections, threads and memory."""


class _DuckTypedTeacher(Teacher):
    """Adapter for a user's class that does not derive from `Teacher`, with the hooks' old names."""

    OLD_HOOKS = ("attach", "let_go", "at_once", "opens_wide")

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint
        self.identity = endpoint.identity
        self.skip_probe = bool(getattr(endpoint, "opens_wide", False))

    async def complete(self, request: Request) -> dict[str, Any] | bytes:
        try:
            completion: dict[str, Any] | bytes = await self._endpoint.complete(request)
            return completion
        finally:
            self.advertised = getattr(self._endpoint, "advertised", None)

    def open(self, store: ResponseStore, run: str) -> None:
        self._call("attach", store, run)

    def cancel_pending(self) -> None:
        self._call("let_go")

    def disable_batching(self) -> None:
        self._call("at_once")

    async def close(self) -> None:
        await self._endpoint.close()

    def _call(self, hook: str, *arguments: Any) -> None:
        if method := getattr(self._endpoint, hook, None):
            method(*arguments)


def as_teacher(endpoint: Any) -> Teacher:
    """Return a teacher as it is, or wrapped where it has the form of earlier releases.

    An object that does not derive from `Teacher`, or has a hook of an old name, is accepted for
    one release.
    """
    old = any(hasattr(endpoint, hook) for hook in _DuckTypedTeacher.OLD_HOOKS)
    return endpoint if isinstance(endpoint, Teacher) and not old else _DuckTypedTeacher(endpoint)
