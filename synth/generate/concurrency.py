"""The way to one teacher: how many requests at a time, when, and whether at all.

A lane opens one request wide: the first answer proves the address, the key and the model before
more is asked. Then its width doubles with each round trip up to the ceiling. What the endpoint
cannot take halves it, and from there it grows by a step a round trip (additive increase,
multiplicative decrease: Chiu and Jain 1989, section 3). Requests wait in one queue by the time at
which they are due, so that one that is tried again goes before one that came after its time.
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
# ill and not a request odd. It is then tried with one request at a time.
ILL_AFTER = 5
FIRST_PAUSE_S = 0.5  # doubling with each round trip that brings no answer
# After the first answer: so many, or half of the ceiling if that is more. The width doubles with
# each round trip, and a round trip may take minutes.
FIRST_WIDTH = 32.0


class TeacherClosed(Exception):
    """The teacher answers nothing more.

    Args:
        error: Why, as the user is to read it if no other teacher is left.
    """

    def __init__(self, error: DistillError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Limits:
    """What a lane keeps to.

    Attributes:
        ceiling: Most requests in flight.
        rpm: Most requests a minute, or None.
        tpm: Most tokens a minute, or None.
        patience_s: Seconds without an answer after which the teacher is given up.
    """

    ceiling: int = 64
    rpm: float | None = None
    tpm: float | None = None
    patience_s: float = 600.0


class _Bucket:
    """So much a minute, evenly, with at most `burst_s` seconds' worth saved up."""

    def __init__(self, per_minute: float, burst_s: float) -> None:
        self.rate = per_minute / 60
        self.most = max(1.0, self.rate * burst_s)
        self.level, self.at = self.most, time.monotonic()

    def wait(self, now: float) -> float:
        """Seconds until something may be taken: while the level is above zero, it may."""
        self.level = min(self.most, self.level + (now - self.at) * self.rate)
        self.at = now
        return 0.0 if self.level > 0 else -self.level / self.rate + 1e-3

    def take(self, amount: float) -> None:
        """Takes out; a level below zero is a debt that the next one waits for."""
        self.level -= amount


Health = Literal["untried", "well", "ill"]


class ConcurrencyController:
    """One teacher's queue. `enter` waits for a turn; `leave` says what came of it."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        advertised: Callable[[], Advertised | None] = lambda: None,
        wide: bool = False,
    ) -> None:
        self.name, self.limits, self._wide = name, limits, wide
        self.in_flight = 0
        self.health: Health = "untried"
        self.closed: DistillError | None = None
        self.answers = 0
        self._advertised = advertised
        self._width = 1.0
        self._growing_fast = True
        self._narrowed_at = 0.0
        self._not_before = 0.0
        self._failing: set[object] = set()  # requests that failed since the last answer
        self._failures = self._rounds = 0  # how often, and in how many round trips, since then
        self._quiet_since = time.monotonic()  # the first failure since the last answer
        # A request is taken when it is sent; tokens when they are known.
        self._requests = _Bucket(limits.rpm, 1.0) if limits.rpm else None
        self._tokens = _Bucket(limits.tpm, 10.0) if limits.tpm else None
        self._queue: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = itertools.count()
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def width(self) -> int:
        """How many requests may be in flight at this moment."""
        if self._wide:  # it proves the key by itself, and gathers what it is asked
            return self.limits.ceiling
        return 1 if self.health != "well" else int(self._width)

    @property
    def queued(self) -> int:
        """How many requests wait for their turn."""
        return len(self._queue)

    async def enter(self, due: float = 0.0) -> None:
        """Waits for a turn, not before `due` (monotonic seconds).

        Raises:
            Closed: The teacher is given up.
        """
        if self.closed is not None:
            raise TeacherClosed(self.closed)
        now = time.monotonic()
        if not self._queue and due <= now and self._blocked(now) == 0.0:
            self._take()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (max(due, now), next(self._number), turn))
        self._pump()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.in_flight -= 1  # the turn had come
                self._pump()
            raise

    def answered(self, sent: float, tokens: int) -> None:
        """An answer came to the request that was sent at `sent` (monotonic seconds)."""
        self.in_flight -= 1
        self.answers += 1
        self._failing.clear()
        self._failures = self._rounds = 0
        if self.health != "well":
            widest = max(FIRST_WIDTH, self.limits.ceiling / 2)
            start = widest if self.health == "untried" else self._width
            self.health, self._width = "well", min(start, float(self.limits.ceiling))
        elif self.in_flight + 1 >= self._width / 2 and sent >= self._narrowed_at:
            step = self._width if self._growing_fast else max(1.0, self.limits.ceiling / 32)
            self._width = min(float(self.limits.ceiling), self._width + step / self._width)
        if self._tokens is not None:
            self._tokens.take(tokens)
        self._pump()

    def failed(self, failure: RetryableError, sent: float, request: object) -> None:
        """A failure that may pass.

        Args:
            failure: What happened.
            sent: When the request was sent (monotonic seconds).
            request: Something that names the request: many failures of one say little of the rest.
        """
        self.in_flight -= 1
        now = time.monotonic()
        if failure.trouble != "malformed":
            self._trouble(failure, sent, now, request)
        self._pump()

    def _trouble(self, failure: RetryableError, sent: float, now: float, request: object) -> None:
        if not self._failures:
            self._quiet_since = now
        self._failures += 1
        self._failing.add(request)
        if sent >= self._narrowed_at:  # once a round trip, not once for each request of a window
            self._width, self._narrowed_at = max(1.0, self._width / 2), now
            self._growing_fast = False
            self._rounds += 1
        if (
            failure.trouble == "outage"
            and self.health == "well"
            and len(self._failing) >= ILL_AFTER
        ):
            self.health = "ill"
        # One odd request waits by itself; trouble with the endpoint holds up everyone.
        pause = failure.after or 0.0
        if failure.after is None or self._rounds > 1:  # what it asked for was not enough
            pause = max(pause, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (self._rounds - 1)))
        if failure.after is not None or failure.trouble == "rate limit" or self.health != "well":
            self._not_before = max(self._not_before, now + pause)
        quiet = now - self._quiet_since
        if failure.unreachable and self.health == "untried" and self._failures >= FIRST_ATTEMPTS:
            self.close(UserError(failure.reason))
        elif quiet > self.limits.patience_s:
            self.close(Unfinished(f"no answer for {quiet:.0f} s, the last was: {failure.reason}"))

    def left(self) -> None:
        """The request ended in a way that says nothing of the teacher (refused, or stopped)."""
        self.in_flight -= 1
        self._pump()

    def close(self, error: DistillError) -> None:
        """Gives the teacher up: whoever waits for a turn is told so."""
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
        """Seconds until a request may be sent; None until one in flight has ended."""
        if self.in_flight >= self.width:
            return None
        wait = self._not_before - now
        for bucket in (self._requests, self._tokens):
            if bucket is not None:
                wait = max(wait, bucket.wait(now))
        if (said := self._advertised()) is not None:
            wait = max(wait, said.wait())
        return max(0.0, wait)

    def _pump(self) -> None:
        """Lets in whoever is due, and comes back when the next one is."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._queue:
            now = time.monotonic()
            due, _, turn = self._queue[0]
            if turn.done():
                heapq.heappop(self._queue)
                continue
            wait = self._blocked(now)
            if wait is None:
                return
            if (wait := max(wait, due - now)) > 0:
                loop = asyncio.get_running_loop()
                self._alarm = loop.call_later(wait, self._pump)
                return
            heapq.heappop(self._queue)
            self._take()
            turn.set_result(None)
