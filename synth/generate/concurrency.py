"""Concurrency controller: how many requests one teacher gets at a time, and when.

It begins with one request in flight: the first answer proves the address, the key and the model.
Then the limit doubles with each round trip up to the ceiling. What the endpoint cannot take halves
it, and from there it grows by a step a round trip (additive increase, multiplicative decrease: Chiu
and Jain 1989, section 3). Requests wait in one queue by the time at which they are due, so that one
that is tried again goes before one that came after its time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from synth.core.errors import DistillError, Unfinished, UserError
from synth.teachers.base import FIRST_ATTEMPTS, LONGEST_PAUSE_S, Advertised, RetryableError

# So many different requests failing in a row, with no answer between, mean that the endpoint is
# unhealthy and not a request odd. It is then tried with one request at a time.
UNHEALTHY_AFTER = 5
FIRST_PAUSE_S = 0.5  # doubling with each round trip that brings no answer
# After the first answer: so many, or half of the ceiling if that is more. The limit doubles with
# each round trip, and a round trip may take minutes.
FIRST_LIMIT = 32.0


class TeacherClosed(Exception):
    """The teacher answers nothing more; `error` is for the user if no other teacher is left."""

    def __init__(self, error: DistillError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one teacher."""

    ceiling: int = 64  # requests in flight
    rpm: float | None = None  # requests a minute
    tpm: float | None = None  # tokens a minute
    patience_s: float = 600.0  # without an answer, before the teacher is given up


class _Bucket:
    """Token bucket: so much a minute, evenly, with at most `burst_s` seconds' worth saved up."""

    def __init__(self, per_minute: float, burst_s: float) -> None:
        self.rate = per_minute / 60
        self.capacity = max(1.0, self.rate * burst_s)
        self.level, self.at = self.capacity, time.monotonic()

    def wait(self, now: float) -> float:
        """Return seconds until something may be taken: while the level is above zero, it may."""
        self.level = min(self.capacity, self.level + (now - self.at) * self.rate)
        self.at = now
        return 0.0 if self.level > 0 else -self.level / self.rate + 1e-3

    def take(self, amount: float) -> None:
        """Take out; a level below zero is a debt that the next one waits for."""
        self.level -= amount


Health = Literal["untested", "healthy", "unhealthy"]


class ConcurrencyController:
    """Queue of one teacher's requests.

    `acquire` waits for a turn. `on_success`, `on_error` or `release` says how the turn ended.
    """

    def __init__(
        self,
        limits: Limits,
        advertised: Callable[[], Advertised | None] = lambda: None,
        skip_probe: bool = False,
    ) -> None:
        self.limits, self._skip_probe = limits, skip_probe
        self.in_flight = 0
        self.health: Health = "untested"
        self.closed: DistillError | None = None
        self.answers = 0
        self._advertised = advertised
        self._limit = 1.0
        self._growing_fast = True
        self._reduced_at = 0.0
        self._paused_until = 0.0
        self._failing: set[object] = set()  # requests that failed since the last answer
        self._failures = self._rounds = 0  # how often, and in how many round trips, since then
        self._failing_since = time.monotonic()  # the first failure since the last answer
        # A request is taken when it is sent; tokens when they are known.
        self._requests = _Bucket(limits.rpm, 1.0) if limits.rpm else None
        self._tokens = _Bucket(limits.tpm, 10.0) if limits.tpm else None
        self._queue: list[tuple[float, int, asyncio.Future[None]]] = []
        self._sequence = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        if self._skip_probe:  # it proves the key by itself, and gathers what it is asked
            return self.limits.ceiling
        return 1 if self.health != "healthy" else int(self._limit)

    async def acquire(self, due: float = 0.0) -> None:
        """Wait for a turn, not before `due` (monotonic seconds). Raises TeacherClosed."""
        if self.closed is not None:
            raise TeacherClosed(self.closed)
        now = time.monotonic()
        if not self._queue and due <= now and self._blocked(now) == 0.0:
            self._take()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (max(due, now), next(self._sequence), turn))
        self._pump()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.in_flight -= 1  # the turn had come
                self._pump()
            raise

    def on_success(self, sent: float, tokens: int) -> None:
        """End a turn with an answer to the request that was sent at `sent` (monotonic seconds)."""
        self.in_flight -= 1
        self.answers += 1
        self._failing.clear()
        self._failures = self._rounds = 0
        if self.health != "healthy":
            first = max(FIRST_LIMIT, self.limits.ceiling / 2)
            start = first if self.health == "untested" else self._limit
            self.health, self._limit = "healthy", min(start, float(self.limits.ceiling))
        elif self.in_flight + 1 >= self._limit / 2 and sent >= self._reduced_at:
            step = self._limit if self._growing_fast else max(1.0, self.limits.ceiling / 32)
            self._limit = min(float(self.limits.ceiling), self._limit + step / self._limit)
        if self._tokens is not None:
            self._tokens.take(tokens)
        self._pump()

    def on_error(self, failure: RetryableError, sent: float, request: object) -> None:
        """End a turn with a failure that may pass.

        `request` names what was sent at `sent` (monotonic seconds): many failures of one request
        say little of the rest.
        """
        self.in_flight -= 1
        if failure.trouble != "malformed":
            self._back_off(failure, sent, request)
        self._pump()

    def _back_off(self, failure: RetryableError, sent: float, request: object) -> None:
        now = time.monotonic()
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        self._failing.add(request)
        if sent >= self._reduced_at:  # once a round trip, not once for each request of a window
            self._limit, self._reduced_at = max(1.0, self._limit / 2), now
            self._growing_fast = False
            self._rounds += 1
        if (
            failure.trouble == "outage"
            and self.health == "healthy"
            and len(self._failing) >= UNHEALTHY_AFTER
        ):
            self.health = "unhealthy"
        # One odd request waits by itself; trouble with the endpoint holds up everyone.
        pause = failure.after or 0.0
        if failure.after is None or self._rounds > 1:  # what it asked for was not enough
            pause = max(pause, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (self._rounds - 1)))
        if failure.after is not None or failure.trouble == "rate limit" or self.health != "healthy":
            self._paused_until = max(self._paused_until, now + pause)
        quiet = now - self._failing_since
        if failure.unreachable and self.health == "untested" and self._failures >= FIRST_ATTEMPTS:
            self.close(UserError(failure.reason))
        elif quiet > self.limits.patience_s:
            self.close(Unfinished(f"no answer for {quiet:.0f} s, the last was: {failure.reason}"))

    def release(self) -> None:
        """End a turn in a way that says nothing of the teacher (rejected, or stopped)."""
        self.in_flight -= 1
        self._pump()

    def close(self, error: DistillError) -> None:
        """Give the teacher up: whoever waits for a turn gets a `TeacherClosed`."""
        if self.closed is None:
            self.closed = error
        for *_, turn in self._queue:
            if not turn.done():
                turn.set_exception(TeacherClosed(self.closed))
        self._queue.clear()

    def _take(self) -> None:
        self.in_flight += 1
        if self._requests is not None:
            self._requests.take(1)

    def _blocked(self, now: float) -> float | None:
        """Return seconds until a request may be sent; None until one in flight has ended."""
        if self.in_flight >= self.limit:
            return None
        wait = self._paused_until - now
        for bucket in (self._requests, self._tokens):
            if bucket is not None:
                wait = max(wait, bucket.wait(now))
        if (advertised := self._advertised()) is not None:
            wait = max(wait, advertised.wait())
        return max(0.0, wait)

    def _pump(self) -> None:
        """Grant the turns that are due, and come back when the next one is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            now = time.monotonic()
            due, _, turn = self._queue[0]
            if not turn.done():
                if (wait := self._blocked(now)) is None:
                    return
                if (wait := max(wait, due - now)) > 0:
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(wait, self._pump)
                    return
                self._take()
                turn.set_result(None)
            heapq.heappop(self._queue)
