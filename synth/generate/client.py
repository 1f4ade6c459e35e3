"""Client of the teachers: a response comes from the store, or is bought and stored first."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from synth.core.errors import DistillError, Unfinished, UserError
from synth.core.finish_reasons import no_answer
from synth.core.reasoning import is_cut, parse_completion
from synth.core.record import Request
from synth.core.usage import TokenUsage, hidden_reasoning, read_usage
from synth.generate.budget import BudgetTracker
from synth.generate.concurrency import ConcurrencyController, TeacherClosed
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.generate.usage_account import Spent, UsageAccount
from synth.store.keys import RequestKey, request_key
from synth.store.responses import ResponseStore, StoreFull
from synth.teachers import RequestRejected, RetryableError, parse_answer
from synth.teachers.base import LONGEST_PAUSE_S, TeacherFault

T = TypeVar("T")
# So many different first requests without a chat completion, and the address is of something else.
NO_COMPLETION = 5


class RunStopping(Exception):
    """The run is stopping: this question is left for the next time."""


@dataclass(slots=True)
class Reply:
    """One stored response: its key, the raw completion, and what was read of it, once."""

    key: str
    raw: dict[str, Any]
    latency: float  # seconds that it took
    usage: TokenUsage
    parsed: tuple[str | None, str, str]  # reasoning, answer, finish reason

    @property
    def cut(self) -> bool:
        """Whether the response was cut off at the limit on its tokens."""
        return is_cut(self.parsed[2])


class ResponseClient:
    """The concurrency controllers, the budget and the store of one generation."""

    def __init__(self, spec: GenerationSpec, store: ResponseStore, counts: GenerationStats) -> None:
        self.spec, self.store, self.counts = spec, store, counts
        self.stop: DistillError | None = None  # why the run stops, once it does
        self.on_halt: list[Callable[[], None]] = []  # called when the run stops
        self.retrying = 0  # requests that failed and wait for their next attempt
        self.on_retry: list[Callable[[], None]] = []  # called when one more of them waits
        self.controllers = {name: spec.controller(name) for name in spec.teachers}
        caps = {name: options.budget for name, options in spec.options.items() if options.budget}
        spent = store.spent(spec.run) if spec.budget or caps else {}
        self._account = UsageAccount(spec, counts)
        self._budget = BudgetTracker(spec.budget, caps, spent)

    def key(self, name: str, request: Request) -> RequestKey:
        """Return the key under which the store holds a teacher's response to a request."""
        return request_key(request, self.spec.teachers[name].identity)

    async def fetch(self, name: str, request: Request, key: RequestKey | None = None) -> Reply:
        """Return a teacher's response, bought only if it is not in the store under its key.

        Raises:
            TeacherClosed: The teacher answers nothing more.
            RequestRejected: It never answers this; that is in the store's account of failures.
            RunStopping: The run ends.
        """
        key = key or self.key(name, request)
        if (stored := self.store.get(key.key)) is not None:
            problem = no_answer(stored.raw, self.spec.teachers[name].empty_answers)
            if problem is None:
                self.counts.reused += 1
                usage = read_usage(stored.raw, self.spec.prices.get(name))
                parsed = parse_completion(stored.raw)
                return Reply(key.key, stored.raw, stored.latency, usage, parsed)
            self.counts.set_aside[_kind(problem.reason)] += 1
            await self.persist(self.store.set_aside(key.key))
        return await self._request_with_retries(name, request, key)

    async def _request_with_retries(self, name: str, request: Request, key: RequestKey) -> Reply:
        """Buy a response; it is on the disk when this returns."""
        controller, attempts, due = self.controllers[name], 0, 0.0
        at_first_failure: int | None = None  # how many answers there were
        while True:
            await self._acquire(name, due)
            health, answers, sent = controller.health, controller.answers, time.monotonic()
            try:
                return await self.persist(self._send(name, request, key))
            except RetryableError as failure:
                meanwhile = controller.answers > answers
                if at_first_failure is None:
                    at_first_failure = answers if meanwhile else controller.answers
                # Where others are answered this request is odd, and the endpoint is well.
                odd = not failure.unreachable and (
                    controller.answers > at_first_failure
                    or (due > 0 and controller.only_retries)
                    or self.store.failed_before(key.key)
                )
                controller.on_error(failure, sent, key.key, odd)
                if self._closes(name, key, failure):
                    continue  # no turn comes any more
                # Trouble with the endpoint is not held against the request: it counts only where
                # others were answered meanwhile. Without any answer the patience ends it.
                attempts += (
                    failure.trouble == "malformed"
                    or (failure.trouble == "outage" and health != "unhealthy")
                    or meanwhile
                )
                if attempts <= self.spec.retries:
                    self.counts.retried[_kind(failure.reason)] += 1
                    pause = _backoff(attempts) if failure.after is None else failure.after
                    due = time.monotonic() + pause
                    continue
                reason = failure.reason
            except RequestRejected as rejection:
                controller.on_refusal()
                reason = str(rejection)
                if self._closes(name, key, rejection):
                    continue
            except DistillError as error:
                controller.release()
                if self.stop:
                    raise RunStopping from error
                # Before the first answer a `UserError` is a mistake in the config. Later the key
                # was withdrawn, or the money is gone, and another teacher may go on.
                mistake = isinstance(error, UserError) and controller.health == "untested"
                self._close(name, error, mistake or not self._others(name))
                continue  # no turn comes any more
            except BaseException:
                controller.release()
                raise
            self.counts.failed[_kind(reason)] += 1
            if request.task is not None:
                example = f"question {request.task.id}: {reason}"
                self.counts.failed_examples.setdefault(_kind(reason), example)
            await self.persist(self.store.persist_failure(key.key, reason, self.spec.run, name))
            raise RequestRejected(reason)

    def _closes(
        self, name: str, key: RequestKey, failure: RetryableError | RequestRejected
    ) -> bool:
        """Return whether a failure ends the teacher, which is then given up."""
        controller, fault = self.controllers[name], failure.if_all
        # Before the first answer a wrong address, key, model or parameter is a mistake in the
        # config, as a `UserError` is.
        mistake = controller.health == "untested" and fault is not None
        if isinstance(failure, RetryableError) and failure.trouble == "malformed" and not fault:
            fault = self._no_completion(name, failure.reason)
        if controller.closed is None and fault and not self.store.failed_before(key.key):
            controller.blame(fault, key.key)
        else:
            mistake = False
        if controller.closed is None:
            return False
        if name not in self.counts.out:
            self._close(name, controller.closed, mistake or not self._others(name))
        return True

    def _no_completion(self, name: str, reason: str) -> TeacherFault | None:
        """Return what it means where the first answers of a teacher are no chat completions."""
        if self.spec.teachers[name].skip_probe:  # what a batch left over comes as such
            return None
        first = f"the first answers to {NO_COMPLETION} different requests are no chat completions"
        return TeacherFault(UserError(f"{first}, the last: {reason}"), NO_COMPLETION, later=False)

    async def _acquire(self, name: str, due: float) -> None:
        """Wait for a turn with a teacher, not before `due` (monotonic seconds)."""
        controller = self.controllers[name]
        try:
            if due:
                await self._wait_to_retry(controller, due)
            else:
                await controller.acquire()
            if exceeded := self._budget.exceeded_cap(name):
                self._close(name, *exceeded)
            if controller.closed:
                controller.release()
                raise TeacherClosed(controller.closed)
        except TeacherClosed:
            if self.stop:
                raise RunStopping from None
            raise

    async def _wait_to_retry(self, controller: ConcurrencyController, due: float) -> None:
        """Wait for the next turn of a request that failed; other questions begin meanwhile."""
        self.retrying += 1
        for callback in self.on_retry:
            callback()
        try:
            await controller.acquire(due)
        finally:
            self.retrying -= 1

    async def _send(self, name: str, request: Request, key: RequestKey) -> Reply:
        """Make one attempt. Its turn ends when the response is on the disk."""
        controller, teacher = self.controllers[name], self.spec.teachers[name]
        self.counts.in_flight += 1
        self._budget.begin(name)
        spent: Spent | None = None
        sent = time.monotonic()
        try:
            answer = await teacher.complete(request)
            latency = time.monotonic() - sent
            try:
                raw, body, labels = parse_answer(answer, request, teacher.empty_answers)
            except (RetryableError, RequestRejected):
                if paid := self._account.no_answer(name, answer, latency):
                    body, metadata, spent = paid
                    await self.store.persist_no_answer(key, body, metadata)
                raise
            parsed = parse_completion(raw)
            spent = self._account.read(name, request, raw, parsed)
            metadata = self._account.metadata(name, spent, latency)
            await self.store.persist(key, body, metadata, labels, spent.estimate)
        finally:
            self.counts.in_flight -= 1
            self._budget.end(name, *((spent.tokens, spent.usd) if spent else ()))
        first = controller.health == "untested"
        controller.on_success(sent, spent.tokens)
        reply = Reply(key.key, raw, latency, spent.usage, parsed)
        self._account.count(name, spent)
        self._count(name, reply)
        if first:
            self._check_reasoning(name, reply)
        return reply

    def _check_reasoning(self, name: str, reply: Reply) -> None:
        """Give a teacher up that is to reason, and whose first answer holds no reasoning.

        The others go on; where there is none the run halts.
        """
        if not self.spec.options[name].reasoning or reply.parsed[0]:
            return
        hidden = hidden_reasoning(reply.raw)
        why = (
            f"the API counts {hidden:,} tokens of reasoning and does not send them"
            if hidden
            else "neither a field or part for it, nor <think> tags"
        )
        error = UserError(
            f"declared with reasoning: true, but its first answer (model "
            f"{reply.raw.get('model')!r}) holds none: {why}; the answer is stored, nothing more "
            "was asked of it"
        )
        self._close(name, error, not self._others(name))

    def _count(self, name: str, reply: Reply) -> None:
        """Count a response that was bought; halt where too many of the first are cut off."""
        counts, alarm = self.counts, self.spec.truncation
        counts.bought += 1
        counts.by_teacher[name] += 1
        counts.models[f"{name}: {reply.raw.get('model', '')!s}"] += 1
        counts.cut += reply.cut
        share = counts.cut / counts.bought
        if alarm.alarm and counts.bought == alarm.alarm_after and share >= alarm.alarm:
            self.alarm(
                f"{counts.cut} of the first {counts.bought} answers were cut off at max_tokens "
                f"{self.spec.sampling.max_tokens}: raise generate.sampling.max_tokens, or set "
                "generate.truncation.alarm: null"
            )

    def alarm(self, text: str) -> None:
        """Stop before more is bought, or only say why, as `generate.alarm` has it."""
        if self.spec.alarm == "stop":
            go_on = "generate.alarm: warn goes on; what was bought is stored"
            self.halt(Unfinished(f"{text}. {go_on}"))
        elif self.spec.alarm == "warn":
            self.counts.warnings.append(text)
            sys.stderr.write(f"warning: {text}\n")

    async def persist(self, writing: Awaitable[T]) -> T:
        """Wait for what writes to the store; a full disk stops the run."""
        try:
            return await writing
        except StoreFull as error:
            reason = f"the response store takes no more ({error}); make room and run again"
            self.halt(Unfinished(reason))
            raise RunStopping from error

    def _others(self, name: str) -> bool:
        return any(c.closed is None for other, c in self.controllers.items() if other != name)

    def _close(self, name: str, error: DistillError, fatal: bool) -> None:
        """Give one teacher up; where that is fatal, the whole run."""
        if not str(error).startswith("budget."):  # that is the run's own end
            self.counts.out.setdefault(name, str(error))
        self.controllers[name].close(error)
        if fatal:
            prefix = "" if str(error).startswith(("budget.", "teachers.")) else f"teacher {name}: "
            self.halt(error.prefixed(prefix))

    def end_if_none_left(self) -> None:
        """End the run where every teacher is given up."""
        if not all(controller.closed for controller in self.controllers.values()):
            return
        name, controller = list(self.controllers.items())[-1]
        assert controller.closed is not None
        self.halt(type(controller.closed)(f"no teacher is left; {name}: {controller.closed}"))
        raise RunStopping

    def halt(self, reason: DistillError) -> None:
        """Send nothing more; what is in flight still comes, where it comes within minutes."""
        self.stop = self.stop or reason
        for callback in self.on_halt:
            callback()
        for name, controller in self.controllers.items():
            controller.close(self.stop)
            self.spec.teachers[name].cancel_pending()


def _kind(reason: str) -> str:
    return reason.split(":", 1)[0]


def _backoff(attempt: int) -> float:
    """Return seconds before the next attempt: doubling, and spread over half to one and a half."""
    return min(LONGEST_PAUSE_S, 0.5 * 2.0 ** max(0, attempt - 1)) * random.uniform(0.5, 1.5)
