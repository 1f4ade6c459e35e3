"""One answer from one teacher: from the store, or bought and on the disk before it counts."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable

from synth.core.errors import DistillError, Unfinished, UserError
from synth.core.reasoning import parse_completion
from synth.core.record import Request
from synth.core.usage import usage_of
from synth.generate.budget import BudgetTracker
from synth.generate.concurrency import TeacherClosed
from synth.generate.responses import Reply
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.store.keys import RequestKey, request_key
from synth.store.responses import ResponseMetadata, ResponseStore, StoreFull
from synth.teachers._response import parse_answer
from synth.teachers.base import RequestRejected, RetryableError

LONGEST_WAIT_S = 60.0


class RunStopping(Exception):
    """The run is stopping: this question is left for the next time."""


class ResponseClient:
    """The teachers' lanes, the purse and the store of one generation.

    Attributes:
        lanes: The way to each teacher.
        stop: Why the run stops, once it does.
        on_halt: Called when the run stops.
    """

    def __init__(self, ask: GenerationSpec, store: ResponseStore, counts: GenerationStats) -> None:
        self.ask, self.store, self.counts = ask, store, counts
        self.stop: DistillError | None = None
        self.on_halt: list[Callable[[], None]] = []
        self.lanes = {name: ask.lane(name) for name in ask.teachers}
        caps = {name: own.budget for name, own in ask.options.items() if own.budget}
        spent = store.spent(ask.run) if ask.budget or caps else {}
        self._purse = BudgetTracker(ask.budget, caps, spent)

    async def reply(self, name: str, request: Request) -> Reply:
        """A response, bought only if it is not in the store."""
        key = request_key(request, self.ask.teachers[name].identity)
        if (stored := self.store.get(key.key)) is not None:
            self.counts.reused += 1
            return Reply(key.key, stored.raw, stored.latency)
        return await self._buy(name, request, key)

    async def _buy(self, name: str, request: Request, key: RequestKey) -> Reply:
        """A new answer, on the disk when this returns.

        Raises:
            Closed: The teacher answers nothing more.
            Refused: It will never answer this; that is in the store's account of failures.
        """
        lane, attempt, due = self.lanes[name], 0, 0.0
        while True:
            try:
                await lane.enter(due)
            except TeacherClosed:
                if self.stop:
                    raise RunStopping from None
                raise
            if over := self._purse.refusal(name):
                self._close(name, *over)
            if self.stop or lane.closed:
                lane.left()
                if self.stop:
                    raise RunStopping
                raise TeacherClosed(lane.closed)  # type: ignore[arg-type]
            was_ill, answers, sent = lane.health == "ill", lane.answers, time.monotonic()
            try:
                return await self._send(name, request, key)
            except RetryableError as failure:
                lane.failed(failure, sent, key.key)
                if lane.closed and name not in self.counts.out:
                    self._close(name, lane.closed, not self._others(name))
                # Trouble with the endpoint is not held against the request: it counts only where
                # others were answered meanwhile. Without any answer the lane's patience ends it.
                attempt += (
                    failure.trouble == "malformed"
                    or (failure.trouble == "outage" and not was_ill)
                    or lane.answers > answers
                )
                reason = failure.reason
                if attempt <= self.ask.retries:
                    self.counts.retried[_kind(reason)] += 1
                    after = failure.after if failure.after is not None else _backoff(attempt)
                    due = time.monotonic() + after
                    continue
            except RequestRejected as failure:
                lane.left()
                reason = str(failure)
            except DistillError as error:
                lane.left()
                if self.stop:
                    raise RunStopping from error
                # Before the first answer this is a mistake in the config; later the key was
                # withdrawn, or the money is gone, and another teacher may go on.
                fatal = isinstance(error, UserError) and lane.health == "untried"
                self._close(name, error, fatal or not self._others(name))
                continue
            except StoreFull as error:
                lane.left()
                self.halt(_full_disk(error))
                raise RunStopping from error
            except BaseException:
                lane.left()
                raise
            self.counts.failed[_kind(reason)] += 1
            await self.put(self.store.persist_failure(key.key, reason, self.ask.run, name))
            raise RequestRejected(reason)

    async def _send(self, name: str, request: Request, key: RequestKey) -> Reply:
        """One attempt. Its place in the lane is free again when the answer is on the disk."""
        lane, price = self.lanes[name], self.ask.prices.get(name)
        self.counts.in_flight += 1
        self._purse.begin(name)
        spent: tuple[int, float | None] | tuple[()] = ()
        sent = time.monotonic()
        try:
            answer = await self.ask.teachers[name].complete(request)
            latency = time.monotonic() - sent
            raw, body, labels = parse_answer(answer, request)
            prompt, completion, cost = usage_of(raw, price)
            tokens = (
                prompt + completion
                if prompt is not None and completion is not None
                else len(body) // 4  # a cap has to hold where an endpoint counts nothing
            )
            spent = (tokens, cost)
            bought = ResponseMetadata(self.ask.run, name, prompt, completion, cost, latency)
            await self.store.persist(key, body, bought, labels)
        finally:
            self.counts.in_flight -= 1
            self._purse.end(name, *spent)
        untried = lane.health == "untried"
        lane.answered(sent, tokens)
        reply = Reply(key.key, raw, latency)
        self._count_bought(name, reply, bought)
        if untried:
            self._probe(name, reply)
        return reply

    def _probe(self, name: str, reply: Reply) -> None:
        """The first answer of a teacher that is to reason must hold reasoning."""
        own = self.ask.options.get(name)
        if own is not None and own.reasoning and parse_completion(reply.raw)[0] is None:
            self.halt(
                UserError(
                    f"teacher {name}: declared with reasoning: true, but its first answer (model "
                    f"{reply.raw.get('model')!r}) holds none: neither a reasoning field nor "
                    "<think> tags; the answer is stored, nothing more was asked"
                )
            )

    def _count_bought(self, name: str, reply: Reply, bought: ResponseMetadata) -> None:
        counts, alarm = self.counts, self.ask.truncation
        counts.bought += 1
        counts.by_teacher[name] += 1
        counts.models[f"{name}: {reply.raw.get('model', '')!s}"] += 1
        counts.prompt_tokens += bought.prompt_tokens or 0
        counts.completion_tokens += bought.completion_tokens or 0
        counts.cost_usd += bought.cost_usd or 0.0
        counts.unpriced += bought.cost_usd is None
        counts.cut += reply.cut
        share = counts.cut / counts.bought
        if alarm.alarm and counts.bought == alarm.alarm_after and share >= alarm.alarm:
            self.halt(
                Unfinished(
                    f"{counts.cut} of the first {counts.bought} answers were cut off at max_tokens "
                    f"{self.ask.sampling.max_tokens}: raise generate.sampling.max_tokens, or set "
                    "generate.truncation.alarm: null to go on; what was bought is stored"
                )
            )

    async def put(self, writing: Awaitable[None]) -> None:
        """Waits for a note to the store; a full disk stops the run."""
        try:
            await writing
        except StoreFull as error:
            self.halt(_full_disk(error))
            raise RunStopping from error

    def _others(self, name: str) -> bool:
        return any(lane.closed is None for other, lane in self.lanes.items() if other != name)

    def _close(self, name: str, error: DistillError, fatal: bool) -> None:
        """Gives one teacher up; where that is fatal, the whole run."""
        if not str(error).startswith("budget."):  # that is the run's own end
            self.counts.out.setdefault(name, str(error))
        self.lanes[name].close(error)
        if fatal:
            place = "" if str(error).startswith(("budget.", "teachers.")) else f"teacher {name}: "
            self.halt(type(error)(f"{place}{error}"))

    def end_if_none_left(self) -> None:
        """Ends the run where every teacher is given up."""
        if not all(lane.closed for lane in self.lanes.values()):
            return
        name, lane = list(self.lanes.items())[-1]
        assert lane.closed is not None
        self.halt(type(lane.closed)(f"no teacher is left; {name}: {lane.closed}"))
        raise RunStopping

    def halt(self, reason: DistillError) -> None:
        """Sends nothing more; what is in flight still comes, where it comes within minutes."""
        self.stop = self.stop or reason
        for tell in self.on_halt:
            tell()
        for name, lane in self.lanes.items():
            lane.close(self.stop)
            if let_go := getattr(self.ask.teachers[name], "let_go", None):
                let_go()


def _kind(reason: str) -> str:
    return reason.split(":", 1)[0]


def _full_disk(error: StoreFull) -> Unfinished:
    return Unfinished(f"the response store takes no more ({error}); make room and run again")


def _backoff(attempt: int) -> float:
    """Seconds before the next attempt: doubling, and spread so as not to march in step."""
    return min(LONGEST_WAIT_S, 0.5 * 2.0 ** max(0, attempt - 1)) * random.uniform(0.5, 1.5)
