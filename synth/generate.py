"""Asking the teachers: a bounded window of requests, each answer stored before it counts.

Everything here reads the response store first, so running it again after a kill, or with other
filters, buys only what is missing.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from synth.config import Samples, Sampling
from synth.errors import DistillError, Interrupted, Unfinished, UserError
from synth.prompts import Prompt
from synth.reasoning import parse_completion
from synth.record import Generation, Record, Task, Verdict
from synth.store import Store, Stored, StoreFull, request_key
from synth.teachers.contract import Price, Refused, Request, Retry, Teacher

# Questions begun beyond the window: one slow answer holds back the order, not the others.
AHEAD = 8
LONGEST_WAIT_S = 60.0
# Attempts to reach an endpoint that has not answered yet: more would only delay the message.
FIRST_ATTEMPTS = 3

Check = Callable[[Record], list[Verdict]]
Emit = Callable[[Task, list[Record]], None]


@dataclass
class Counts:
    """What happened so far; progress is shown from it and the manifest keeps it.

    Attributes:
        questions: Questions finished, of `questions_total`.
        bought: Responses paid for in this call; `reused` came from the store.
        kept: Records that passed the trace filters; `rejected` counts the others by reason.
        failed: Requests that failed for good, by reason; `retried` counts further attempts.
        prompt_tokens: Of the responses bought, as are `completion_tokens` and `cost_usd`.
        unpriced: Responses bought whose cost is not known.
    """

    questions_total: int = 0
    questions: int = 0
    bought: int = 0
    reused: int = 0
    in_flight: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0
    started: float = field(default_factory=time.monotonic)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with the seconds since the start."""
        values = {k: v for k, v in vars(self).items() if k not in ("started", "in_flight")}
        plain = {k: dict(v) if isinstance(v, Counter) else v for k, v in values.items()}
        return plain | {"seconds": round(time.monotonic() - self.started, 3)}


@dataclass
class Ask:
    """Everything that stays the same over the questions of one generation.

    Attributes:
        teachers: By name; sample i goes to teacher i modulo their number.
        prices: Price of each teacher's tokens, or None.
        check: The trace filters, run as answers arrive.
    """

    teachers: Mapping[str, Teacher]
    prices: Mapping[str, Price | None]
    prompt: Prompt
    values: Mapping[str, Any]
    sampling: Sampling
    samples: Samples
    check: Check
    concurrency: int = 64
    retries: int = 6


class _Stopped(Exception):
    """The run is stopping: this question is left for the next time."""


class _Run:
    """One generation under way. `run` does it all; the rest is its parts."""

    def __init__(self, ask: Ask, store: Store, counts: Counts) -> None:
        self.ask, self.store, self.counts = ask, store, counts
        self._stop: DistillError | None = None
        self._window = asyncio.Semaphore(ask.concurrency)
        self._first = {name: asyncio.Lock() for name in ask.teachers}
        self._answered: set[str] = set()

    async def run(self, tasks: Iterable[Task], emit: Emit) -> None:
        """Answers every task and hands its records to `emit`, in the order of the tasks.

        Raises:
            UserError: A mistake that no retry mends (wrong key, unknown model, wrong address).
            Unfinished: The store's disk is full.
            Interrupted: Ctrl-C; a second one does not wait for what is in flight.
        """
        pending: deque[tuple[Task, asyncio.Task[list[Record]]]] = deque()
        handled = self._handle_interrupt()
        try:
            for task in tasks:
                if self._stop:
                    break
                pending.append((task, asyncio.create_task(self._question(task))))
                while pending and (
                    pending[0][1].done() or len(pending) >= AHEAD * self.ask.concurrency
                ):
                    await self._emit(pending, emit)
                # Lets the work begin before all questions are read.
                await asyncio.sleep(0)
            while pending and not self._stop:
                await self._emit(pending, emit)
        except _Stopped:
            pass
        finally:
            # What is in flight is paid for: wait for it, whatever the reason to stop.
            await asyncio.gather(*(work for _, work in pending), return_exceptions=True)
            if handled:
                asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        if self._stop:
            raise self._stop

    async def _emit(
        self, pending: deque[tuple[Task, asyncio.Task[list[Record]]]], emit: Emit
    ) -> None:
        task, work = pending[0]
        records = await work
        pending.popleft()
        emit(task, records)

    async def _question(self, task: Task) -> list[Record]:
        """All samples of one question, in waves as large as what is still wanted."""
        samples = self.ask.samples
        try:
            messages = self.ask.prompt.messages(task, self.ask.values)
        except UserError as error:
            self._halt(UserError(f"{error} (question {task.id})"))
            raise _Stopped from error
        records: list[Record] = []
        verified = begun = 0
        while begun < samples.max:
            wanted = (
                samples.max if samples.until_verified is None else samples.until_verified - verified
            )
            if wanted <= 0:
                break
            wave = range(begun, min(begun + wanted, samples.max))
            begun = wave.stop
            results = await asyncio.gather(
                *(self._sample(task, messages, sample) for sample in wave), return_exceptions=True
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
                if result is not None:
                    records.append(result)
                    verified += result.rejected_by is None
        self.counts.questions += 1
        return records

    async def _sample(self, task: Task, messages: list[Any], sample: int) -> Record | None:
        """One answer as a record, bought only if not in the store; None if it failed for good."""
        name = list(self.ask.teachers)[sample % len(self.ask.teachers)]
        teacher = self.ask.teachers[name]
        request = Request(messages, self.ask.sampling.parameters(sample), sample, task)
        key = request_key(request, teacher.identity)
        stored = self.store.get(key)
        if stored is None:
            stored = await self._buy(name, teacher, request, key)
            if stored is None:
                return None
            self._count_bought(name, stored.raw)
        else:
            self.counts.reused += 1
        record = self._record(name, request, key, stored, task)
        record.verdicts = await asyncio.to_thread(self.ask.check, record)
        if record.rejected_by is None:
            self.counts.kept += 1
        else:
            self.counts.rejected[record.rejected_by.kind] += 1
        return record

    async def _buy(self, name: str, teacher: Teacher, request: Request, key: str) -> Stored | None:
        """A new answer, on the disk when this returns; whatever must stop the run stops it here."""
        try:
            return await self._try(name, teacher, request, key)
        except DistillError as error:
            self._halt(type(error)(f"teacher {name}: {error}"))
        except StoreFull as error:
            self._halt(
                Unfinished(f"the response store takes no more ({error}); make room and run again")
            )
        raise _Stopped

    async def _try(self, name: str, teacher: Teacher, request: Request, key: str) -> Stored | None:
        """Asks until there is an answer; None, and a note in the store, when there will be none."""
        reason = ""
        for attempt in range(self.ask.retries + 1):
            async with self._window:
                if self._stop:
                    raise _Stopped
                try:
                    return await self._attempt(name, teacher, request)
                except Retry as failure:
                    reason, wait = failure.reason, failure.after
                except Refused as failure:
                    reason = str(failure)
                    break
            if attempt < self.ask.retries:
                self.counts.retried[reason.split(":", 1)[0]] += 1
                await self._wait(wait if wait is not None else _backoff(attempt))
        self.counts.failed[reason.split(":", 1)[0]] += 1
        await self.store.put_failure(key, reason)
        return None

    async def _attempt(self, name: str, teacher: Teacher, request: Request) -> Stored:
        """One request. Until a teacher has answered once, its requests go one at a time.

        A wrong key or model then costs one request, not a window of them.
        """
        if name not in self._answered:
            async with self._first[name]:
                if self._stop:
                    raise _Stopped
                if name not in self._answered:
                    stored = await self._first_answer(teacher, request)
                    self._answered.add(name)
                    return stored
        return await self._send(teacher, request)

    async def _first_answer(self, teacher: Teacher, request: Request) -> Stored:
        for attempt in range(FIRST_ATTEMPTS):
            try:
                return await self._send(teacher, request)
            except Retry as failure:
                if not failure.unreachable:
                    raise
                reason = failure.reason
            self.counts.retried[reason.split(":", 1)[0]] += 1
            await self._wait(_backoff(attempt))
        raise UserError(reason)

    async def _send(self, teacher: Teacher, request: Request) -> Stored:
        self.counts.in_flight += 1
        start = time.monotonic()
        try:
            raw = await teacher.complete(request)
            latency = time.monotonic() - start
            try:
                parse_completion(raw)
            except ValueError as error:
                raise Retry(f"malformed response: {error}") from error
            await self.store.put(request, teacher.identity, raw, latency)
        finally:
            self.counts.in_flight -= 1
        return Stored(raw, latency)

    async def _wait(self, seconds: float) -> None:
        """Sleeps, but not past the moment at which the run stops."""
        end = time.monotonic() + seconds
        while not self._stop and (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.5))

    def _count_bought(self, name: str, raw: dict[str, Any]) -> None:
        prompt, completion, cost = usage_of(raw, self.ask.prices.get(name))
        self.counts.bought += 1
        self.counts.prompt_tokens += prompt or 0
        self.counts.completion_tokens += completion or 0
        if cost is None:
            self.counts.unpriced += 1
        else:
            self.counts.cost_usd += cost

    def _record(self, name: str, request: Request, key: str, stored: Stored, task: Task) -> Record:
        reasoning, answer, finish = parse_completion(stored.raw)
        prompt, completion, cost = usage_of(stored.raw, self.ask.prices.get(name))
        return Record(
            id=f"{task.id}-{name}-{request.sample}",
            task=task,
            messages=request.messages,
            reasoning=reasoning,
            answer=answer,
            generation=Generation(
                teacher=name,
                model=str(stored.raw.get("model", "")),
                template=self.ask.prompt.name,
                template_hash=self.ask.prompt.hash,
                sampling=request.sampling,
                sample=request.sample,
                finish_reason=finish,
                prompt_tokens=prompt,
                completion_tokens=completion,
                cost_usd=cost,
                latency_s=stored.latency,
                key=key,
            ),
        )

    def _halt(self, reason: DistillError) -> None:
        self._stop = self._stop or reason

    def _handle_interrupt(self) -> bool:
        """Ctrl-C stops the sending and waits for what is in flight; a second one does not wait."""
        loop = asyncio.get_running_loop()
        running = asyncio.current_task()

        def interrupted() -> None:
            if self._stop is None:
                self._halt(
                    Interrupted("interrupted; every answer that came is stored, a rerun goes on")
                )
            elif running is not None:
                loop.remove_signal_handler(signal.SIGINT)
                for other in asyncio.all_tasks(loop):
                    if other is not running:
                        other.cancel()

        try:
            loop.add_signal_handler(signal.SIGINT, interrupted)
        except (ValueError, RuntimeError, NotImplementedError):  # not the main thread
            return False
        return True


def usage_of(
    raw: Mapping[str, Any], price: Price | None
) -> tuple[int | None, int | None, float | None]:
    """Prompt tokens, completion tokens and dollars of a raw response; None is not known.

    Figures that cannot be (negative, not whole) count as not known.
    """
    usage = raw.get("usage")
    usage = usage if isinstance(usage, dict) else {}

    def whole(key: str) -> int | None:
        value = usage.get(key)
        return (
            value
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40
            else None
        )

    prompt, completion = whole("prompt_tokens"), whole("completion_tokens")
    known = price is not None and prompt is not None and completion is not None
    return prompt, completion, price.of(prompt, completion) if known else None  # type: ignore[union-attr, arg-type]


def _backoff(attempt: int) -> float:
    """Seconds before the next attempt: doubling, and spread so as not to march in step."""
    return min(LONGEST_WAIT_S, 0.5 * 2.0**attempt) * random.uniform(0.5, 1.5)


async def generate(
    ask: Ask, store: Store, tasks: Iterable[Task], emit: Emit, counts: Counts
) -> None:
    """Answers every task; see `_Run.run`. Closes the teachers at the end."""
    try:
        await _Run(ask, store, counts).run(tasks, emit)
    finally:
        for teacher in ask.teachers.values():
            await teacher.close()
