"""Concurrency controller: how many requests one teacher gets at a time, and when.

It begins with one request in flight: the first answer proves the address, the key and the model.
Then the limit doubles with each round trip up to the ceiling. Each failure lowers it, all failures
of a round trip by half at most, and each answer raises it by its part of a step a round trip
(additive increase, multiplicative decrease: Chiu and Jain 1989, section 3). So a few failures among
many answers leave it at the ceiling, and a round trip of failures alone halves it.

Requests wait in one queue by the time at which they are due, so that one that is tried again goes
before one that came after its time. A retry waits by itself. Everyone waits only where the endpoint
asks for it, or where different requests fail and none is answered between.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from synth.core.errors import DistillError, Unfinished, UserError
from synth.teachers.base import (
    FIRST_ATTEMPTS,
    Advertised,
    RetryableError,
    TeacherFault,
    Trouble,
)

# So many different requests failing in a row with no answer between, and more than are still in
# flight, mean that the endpoint is unhealthy and not a request odd. It is then tried with one
# request at a time.
UNHEALTHY_AFTER = 5
# By how much one failure lowers the limit. At a ceiling of 16 it stays there while fewer than one
# in 16 responses is a 429, or one in 4 another failure.
LOWERS: dict[Trouble, float] = {"rate limit": 1.0, "outage": 0.25, "malformed": 0.0}
# While nothing is proved one request is in flight, and another for each span without any response:
# a request that never ends must not hold up all.
PROBE_EVERY_S = 20.0
MOST_PROBES = 4
# Where the endpoint itself fails one (5xx, a cut) and nothing is proved, that request may be odd:
# each such failure lets one more that never failed try at the same time, up to so many.
MOST_FIRST_PROBES = 8
MOST_JITTER_S = 1.0  # added to a pause, a tenth of it at most, so that clients do not come together
FIRST_PAUSE_S = 0.5  # doubling with each round trip that brings no answer, up to
MOST_PAUSE_S = 15.0  # so that an endpoint that is back is soon known to be
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
        self._round_began = 0.0  # the first failure of this round trip
        self._lowest = 1.0  # to which this round trip may lower the limit
        self._paused_until = self._asked_until = 0.0  # by whatever; as the endpoint asked
        self._first_probes = 1
        self._most_probes = 0 if skip_probe else min(MOST_PROBES, limits.ceiling)
        self._last_response = 0.0  # of any kind, or when the only request in flight was sent
        self._failing: set[object] = set()  # requests that failed since the last answer
        self._blamed: set[object] = set()  # requests that failed as all may fail, likewise
        self._failures = self._rounds = 0  # how often, and in how many round trips, since then
        self._failing_since = time.monotonic()  # the first failure since the last answer
        # A request is taken when it is sent; tokens when they are known.
        self._requests = _Bucket(limits.rpm, 1.0) if limits.rpm else None
        self._tokens = _Bucket(limits.tpm, 10.0) if limits.tpm else None
        self._queue: list[tuple[float, int, asyncio.Future[None]]] = []
        self._new_waiting = 0  # requests in the queue that never failed
        self._sequence = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        if self._skip_probe:  # it proves the key by itself, and gathers what it is asked
            return self.limits.ceiling
        if self.health == "healthy":
            return int(self._limit)
        silent_s = time.monotonic() - self._last_response if self.in_flight else 0.0
        probes = min(self._most_probes, 1 + int(silent_s / PROBE_EVERY_S))
        return probes if self.only_retries else max(probes, self._first_probes)

    @property
    def only_retries(self) -> bool:
        """Whether no request waits for its turn that never failed."""
        return self._new_waiting == 0

    async def acquire(self, due: float = 0.0) -> None:
        """Wait for a turn, and with a retry not before `due` (monotonic seconds).

        Raises:
            TeacherClosed: The teacher answers nothing more.
        """
        await self._turn(due)
        # Between a turn's coming and its use a response may come that asks to wait.
        while self._asked_until > time.monotonic():
            self.in_flight -= 1
            if self._requests is not None:
                self._requests.take(-1)
            await self._turn(due)

    async def _turn(self, due: float) -> None:
        """Wait for a turn in the queue."""
        if self.closed is not None:
            raise TeacherClosed(self.closed)
        now = time.monotonic()
        if not self._queue and due <= now and self._blocked(now) == 0.0:
            self._take()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (max(due, now), next(self._sequence), turn))
        self._new_waiting += not due
        self._pump()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.in_flight -= 1  # the turn had come
                self._pump()
            raise
        finally:
            self._new_waiting -= not due

    def on_success(self, sent: float, tokens: int) -> None:
        """End a turn with an answer to the request that was sent at `sent` (monotonic seconds)."""
        self._end_turn()
        self.answers += 1
        self._blamed.clear()
        self._clear_failures()
        if self.health != "healthy":
            first = max(FIRST_LIMIT, self.limits.ceiling / 2)
            start = first if self.health == "untested" else self._limit
            self._paused_until, self._first_probes = self._asked_until, 1
            self.health, self._limit = "healthy", min(start, float(self.limits.ceiling))
        elif self.in_flight + 1 >= self._limit / 2:
            step = self._limit if self._growing_fast else max(1.0, self.limits.ceiling / 32)
            self._limit = min(float(self.limits.ceiling), self._limit + step / self._limit)
            self._growing_fast &= self._limit < self.limits.ceiling
        if self._tokens is not None:
            self._tokens.take(tokens)
        self._pump()

    def on_error(
        self, failure: RetryableError, sent: float, request: object, odd: bool = False
    ) -> None:
        """End a turn with a failure that may pass.

        `request` names what was sent at `sent` (monotonic seconds): many failures of one request
        say little of the rest. `odd` says that others are answered where this one fails: then it
        says nothing of them, while the endpoint is not known to be unhealthy.
        """
        self._end_turn()
        new_round = sent >= self._round_began
        if new_round:
            self._round_began, self._lowest = time.monotonic(), max(1.0, self._limit / 2)
        self._limit = max(self._lowest, self._limit - LOWERS[failure.trouble])
        self._growing_fast &= failure.trouble != "rate limit"
        if failure.after is not None:
            self._pause(failure.after)
            self._asked_until = self._paused_until
        elif self.health == "untested" and failure.trouble == "outage" and not failure.unreachable:
            most = min(MOST_FIRST_PROBES, self.limits.ceiling)
            self._first_probes = min(most, self._first_probes + 1)
        odd = (
            odd
            and failure.trouble == "outage"
            and (self.health != "unhealthy" or self.only_retries)
        )
        if odd and self.health == "unhealthy":  # an outage shows in requests that never failed
            self.health = "healthy"
            self._clear_failures()
        if failure.trouble != "malformed" and not odd:
            self._rounds += new_round
            self._back_off(failure, request)
        self._pump()

    def _back_off(self, failure: RetryableError, request: object) -> None:
        """Note one more failure since the last answer, and what it says of the endpoint."""
        now = time.monotonic()
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        self._failing.add(request)
        all_fail = len(self._failing) >= max(UNHEALTHY_AFTER, self.in_flight + 1)
        if failure.trouble == "outage" and self.health == "healthy" and all_fail:
            self.health, self._growing_fast = "unhealthy", False
        if failure.after is None:
            troubled = all_fail or self.health != "healthy"
        else:  # what it asked for was not enough
            troubled = self._rounds > 1
        if troubled:
            self._pause(min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** max(0, self._rounds - 1)))
        quiet, patience_s = now - self._failing_since, self.limits.patience_s
        if failure.unreachable and self.health == "untested" and self._failures >= FIRST_ATTEMPTS:
            self.close(UserError(failure.reason))
        elif failure.after is not None and failure.after > patience_s:
            asked = f"it asks to wait {failure.after:.0f} s, which is more than patience_s"
            self.close(Unfinished(f"{asked} ({patience_s:g}): {failure.reason}"))
        elif quiet > patience_s:
            self.close(Unfinished(f"no answer for {quiet:.0f} s, the last was: {failure.reason}"))

    def _pause(self, seconds: float) -> None:
        """Let nobody send for so many seconds, or a little longer, but never shorter."""
        seconds += random.uniform(0.0, min(MOST_JITTER_S, seconds / 10))
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def on_refusal(self) -> None:
        """End a turn with a refusal of this request alone: the endpoint is there."""
        self._end_turn()
        self._clear_failures()
        if self.health == "unhealthy":
            self.health = "healthy"
        self._pump()

    def blame(self, fault: TeacherFault, request: object) -> None:
        """Close where as many different requests failed in a way as mean that all do.

        Call it after `on_error` or `on_refusal`, and not for a request that failed in an earlier
        run: that says nothing new.
        """
        if self.health == "untested":
            enough = fault.first
        elif fault.later:
            enough = max(UNHEALTHY_AFTER, self.in_flight + 1)
        else:
            return
        self._blamed.add(request)
        if len(self._blamed) >= enough:
            self.close(fault.error)

    def release(self) -> None:
        """End a turn in a way that says nothing of the teacher: the run stops."""
        self._end_turn()
        self._pump()

    def close(self, error: DistillError) -> None:
        """Give the teacher up: whoever waits for a turn gets a `TeacherClosed`."""
        if self.closed is None:
            self.closed = error
        for *_, turn in self._queue:
            if not turn.done():
                turn.set_exception(TeacherClosed(self.closed))
        self._queue.clear()

    def _end_turn(self) -> None:
        self.in_flight -= 1
        self._last_response = time.monotonic()

    def _clear_failures(self) -> None:
        self._failing.clear()
        self._failures = self._rounds = 0

    def _take(self) -> None:
        if not self.in_flight:
            self._last_response = time.monotonic()
        self.in_flight += 1
        if self._requests is not None:
            self._requests.take(1)

    def _blocked(self, now: float) -> float | None:
        """Return seconds until a request may be sent; None until one in flight has ended."""
        if self.in_flight >= self.limit:
            if self.health == "healthy" or self.in_flight >= self._most_probes:
                return None
            return max(1e-3, self._last_response + PROBE_EVERY_S * self.in_flight - now)
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
