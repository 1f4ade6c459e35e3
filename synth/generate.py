"""Asking the teachers: each question until it is done, each answer stored before it counts.

Everything here reads the response store first, so running it again after a kill, or with other
filters, buys only what is missing.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from synth.answers import Reply, continuation, merged, parse_answer
from synth.counts import Counts, Purse, usage_of
from synth.errors import DistillError, Interrupted, Unfinished, UserError
from synth.generate_config import Budget, Samples, Sampling, Truncation
from synth.lane import Closed, Lane, Limits
from synth.plan import Hope, Route, Slot
from synth.prompts import Prompt
from synth.reasoning import is_cut, parse_completion
from synth.record import Generation, Message, Record, Task, Verdict
from synth.store import Bought, Keyed, Store, StoreFull, keyed
from synth.teachers.contract import Price, Refused, Request, Retry, Teacher, TeacherConfig

# Questions begun beyond what the teachers may have in flight: while some are checked or wait to
# be tried again, others are asked.
AHEAD = 1.25
# Characters of finished questions that wait for one before them; beyond this none is begun.
MOST_HELD = 64 * 1024 * 1024
LONGEST_WAIT_S = 60.0

Check = Callable[[Record], list[Verdict]]
Emit = Callable[[Task, list[Record]], None]


class Agreed(NamedTuple):
    """The final answer that most answers give: how many of them, of how many."""

    answer: str
    votes: int
    total: int


@dataclass
class Ask:
    """Everything that stays the same over the questions of one generation.

    Attributes:
        teachers: By name, in the order of the config.
        prices: Price of each teacher's tokens, or None.
        check: The trace filters, run as answers arrive; None where there are none.
        options: The teachers' own options (limits, budget, weight, ...), where they have any.
        route: turns, weights, fallback or cascade; see `synth.plan.Route`.
        vote: Gives the final answer on which some answers agree; asked where a question has no
            reference answer. `agree` votes make it the reference.
        count_tokens: Length of a text in the student's tokens, or None.
        run: Name under which the store notes who bought a response; budgets count by it.
        check_threads: How many records may be checked at a time.
    """

    teachers: Mapping[str, Teacher]
    prices: Mapping[str, Price | None]
    prompt: Prompt
    values: Mapping[str, Any]
    sampling: Sampling
    samples: Samples
    check: Check | None
    concurrency: int = 64
    retries: int = 6
    options: Mapping[str, TeacherConfig] = field(default_factory=dict)
    route: str = "turns"
    truncation: Truncation = field(default_factory=Truncation)
    vote: Callable[[Sequence[str]], Agreed | None] | None = None
    agree: int = 3
    budget: Budget | None = None
    patience_s: float = 600.0
    count_tokens: Callable[[str], int] | None = None
    run: str = ""
    check_threads: int = 8

    def lane(self, name: str) -> Lane:
        """The way to one of the teachers."""
        teacher, own = self.teachers[name], self.options.get(name) or TeacherConfig()
        limits = Limits(own.concurrency or self.concurrency, own.rpm, own.tpm, self.patience_s)
        return Lane(name, limits, lambda: getattr(teacher, "advertised", None))

    def plan(self) -> Route:
        """How samples are dealt to the teachers."""
        own = {name: self.options.get(name) or TeacherConfig() for name in self.teachers}
        return Route(
            self.route,
            list(self.teachers),
            {name: options.weight for name, options in own.items()},
            {name: options.samples for name, options in own.items() if options.samples},
        )


class _Stopped(Exception):
    """The run is stopping: this question is left for the next time."""


class _Run:
    """One generation under way. `run` does it all; the rest is its parts."""

    def __init__(self, ask: Ask, store: Store, counts: Counts) -> None:
        self.ask, self.store, self.counts = ask, store, counts
        self._stop: DistillError | None = None
        self._route = ask.plan()
        self._hope = Hope(ask.samples)
        self._lanes = {name: ask.lane(name) for name in ask.teachers}
        caps = {name: own.budget for name, own in ask.options.items() if own.budget}
        spent = store.spent(ask.run) if ask.budget or caps else {}
        self._purse = Purse(ask.budget, caps, spent)
        self._threads = ThreadPoolExecutor(ask.check_threads, thread_name_prefix="check")
        self._most_active = 8 + int(AHEAD * sum(x.limits.ceiling for x in self._lanes.values()))
        self._active = self._held = 0
        self._finished = asyncio.Event()

    async def run(self, tasks: Iterable[Task], emit: Emit) -> None:
        """Answers every task and hands its records to `emit`, in the order of the tasks.

        A run that stops hands on what it has of the questions that it had begun.

        Raises:
            UserError: A mistake that no retry mends (wrong key, unknown model, wrong address).
            Unfinished: A cap is reached, no teacher is left, or the store's disk is full.
            Interrupted: Ctrl-C; a second one does not wait for what is in flight.
        """
        pending: deque[tuple[Task, asyncio.Task[list[Record]]]] = deque()
        handled = self._handle_interrupt()
        try:
            for task in tasks:
                if self._stop:
                    break
                learning = self._hope.begin(task.source)
                self._active += 1
                pending.append((task, asyncio.create_task(self._question(task, learning))))
                while pending and (pending[0][1].done() or self._full()):
                    await self._advance(pending, emit)
            while pending and not self._stop:
                await self._advance(pending, emit)
        finally:
            # What is in flight is paid for: wait for it, whatever the reason to stop.
            await asyncio.gather(*(work for _, work in pending), return_exceptions=True)
            self._threads.shutdown(wait=False)
            if handled:
                asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        for task, work in pending:
            if not work.cancelled():
                emit(task, work.result())
        if self._stop:
            raise self._stop

    def _full(self) -> bool:
        return self._active >= self._most_active or self._held > MOST_HELD

    async def _advance(
        self, pending: deque[tuple[Task, asyncio.Task[list[Record]]]], emit: Emit
    ) -> None:
        """Hands on the first question if it is done, or waits until some question is."""
        task, work = pending[0]
        if work.done():
            pending.popleft()
            records = work.result()
            self._held -= _size(records)
            emit(task, records)
            return
        self._finished.clear()
        await self._finished.wait()

    async def _question(self, task: Task, learning: bool) -> list[Record]:
        """All samples of one question; on a stop, those that came before it."""
        records: list[Record] = []
        try:
            await self._ask(task, learning, records)
            self.counts.questions += 1
            self.counts.solved += any(record.rejected_by is None for record in records)
        except _Stopped:
            pass
        finally:
            self._active -= 1
            self._held += _size(records)
            self._finished.set()
        return records

    async def _ask(self, task: Task, learning: bool, records: list[Record]) -> None:
        """Asks wave by wave, each as large as what is still wanted."""
        samples = self.ask.samples
        try:
            messages = self.ask.prompt.messages(task, self.ask.values)
        except UserError as error:
            self._halt(UserError(f"{error} (question {task.id})"))
            raise _Stopped from error
        slots = deque(self._route.order(task.question, samples.max))
        tally: dict[str, list[int]] = {}
        voting = self.ask.vote is not None and task.answer is None
        votes = 0
        while slots:
            verified = sum(passed for passed, _ in tally.values())
            wanted = (
                len(slots)
                if samples.until_verified is None
                else self._wanted(verified, first=not records and not tally)
            )
            if voting:
                wanted = max(wanted, self.ask.agree - votes)
            wave = self._wave(slots, wanted, task, tally, learning)
            if not wave:
                break
            results = await _all(self._sample(task, messages, slot) for slot in wave)
            new = [result for result in results if isinstance(result, Record)]
            records += new
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            if voting:
                agreed = await self._vote(records)
                votes = agreed.votes if agreed else 0
                if agreed and votes >= self.ask.agree:
                    voting, new, tally = False, records, {}
                    self.counts.voted += 1
                    task = _settled(task, agreed)
                    for record in records:
                        self.counts.rejected -= _reasons(record)
                        self.counts.kept -= record.rejected_by is None
                        record.task = task
                        await self._check(record)
            if not voting:
                for record in new:
                    self._score(tally, record)
        if learning:
            self._hope.learn(task.source, {key: (p, f) for key, (p, f) in tally.items()})

    def _wanted(self, verified: int, first: bool) -> int:
        assert self.ask.samples.until_verified is not None
        wanted = self.ask.samples.until_verified - verified
        return max(wanted, self.ask.samples.start or 0) if first else wanted

    def _wave(
        self,
        slots: deque[Slot],
        wanted: int,
        task: Task,
        tally: dict[str, list[int]],
        learning: bool,
    ) -> list[Slot]:
        """Takes the next samples, of one teacher only in a cascade: the next may not be needed."""
        wave: list[Slot] = []
        cascade = self.ask.route == "cascade"
        while slots and len(wave) < wanted:
            slot = slots[0]
            if cascade and wave and slot.teacher != wave[0].teacher:
                break
            key = slot.teacher if cascade else ""
            lost = not learning and self._hope.lost(task.source, key, *tally.get(key, (0, 0)))
            if lost and not cascade:
                self.counts.gave_up += not wave
                break
            slots.popleft()
            if not lost and not (cascade and self._lanes[slot.teacher].closed):
                wave.append(slot)
        if not wave and wanted > 0 and all(lane.closed for lane in self._lanes.values()):
            self._none_left()
        return wave

    def _score(self, tally: dict[str, list[int]], record: Record) -> None:
        assert record.generation is not None
        key = record.generation.teacher if self.ask.route == "cascade" else ""
        tally.setdefault(key, [0, 0])[record.rejected_by is not None] += 1

    async def _vote(self, records: list[Record]) -> Agreed | None:
        assert self.ask.vote is not None
        answers = [record.answer for record in records]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self.ask.vote, answers)

    async def _sample(self, task: Task, messages: list[Message], slot: Slot) -> Record | None:
        """One answer as a record, from whichever teacher gives it; None if none does."""
        names = [slot.teacher]
        if self.ask.route != "cascade":
            names += self._route.substitutes(slot.teacher)
        if len(names) > 1:
            own = keyed(self._request(task, messages, slot.sample), self._identity(names[0])).key
            if (stand_in := self.store.stand_in(own)) in names:
                names = [str(stand_in)]
        for name in names:
            if self._lanes[name].closed and name != names[-1]:
                continue
            try:
                record = await self._answer(task, messages, name, slot.sample)
            except Closed:
                continue
            except Refused:
                if self.ask.route == "fallback" and name != names[-1]:
                    continue
                return None
            if name != slot.teacher:
                await self._put(self.store.put_stand_in(own, name))
            return record
        if all(lane.closed for lane in self._lanes.values()):
            self._none_left()
        return None

    async def _answer(self, task: Task, messages: list[Message], name: str, sample: int) -> Record:
        """One answer of one teacher, continued or asked again where it was cut off."""
        policy = self.ask.truncation
        request = self._request(task, messages, sample)
        replies = [await self._reply(name, request)]
        for _ in range(policy.times):
            if policy.policy not in ("raise_max_tokens", "continue") or not replies[-1].cut:
                break
            if policy.policy == "continue":
                request = continuation(request, messages, replies)
            else:
                limit = int(request.sampling["max_tokens"] * policy.factor)
                request = replace(request, sampling={**request.sampling, "max_tokens": limit})
                replies = []
            replies.append(await self._reply(name, request))
        record = self._record(name, request, messages, replies, task)
        await self._check(record)
        return record

    def _request(self, task: Task, messages: list[Message], sample: int) -> Request:
        return Request(messages, self.ask.sampling.parameters(sample), sample, task)

    def _identity(self, name: str) -> dict[str, Any]:
        return self.ask.teachers[name].identity

    async def _reply(self, name: str, request: Request) -> Reply:
        """A response, bought only if it is not in the store."""
        key = keyed(request, self._identity(name))
        if (stored := self.store.get(key.key)) is not None:
            self.counts.reused += 1
            return Reply(key.key, stored.raw, stored.latency)
        return await self._buy(name, request, key)

    async def _buy(self, name: str, request: Request, key: Keyed) -> Reply:
        """A new answer, on the disk when this returns.

        Raises:
            Closed: The teacher answers nothing more.
            Refused: It will never answer this; that is in the store's account of failures.
        """
        lane, attempt, due = self._lanes[name], 0, 0.0
        while True:
            try:
                await lane.enter(due)
            except Closed:
                if self._stop:
                    raise _Stopped from None
                raise
            if over := self._purse.refusal(name):
                self._close(name, *over)
            if self._stop or lane.closed:
                lane.left()
                if self._stop:
                    raise _Stopped
                raise Closed(lane.closed)  # type: ignore[arg-type]
            was_ill, answers, sent = lane.health == "ill", lane.answers, time.monotonic()
            try:
                return await self._send(name, request, key)
            except Retry as failure:
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
            except Refused as failure:
                lane.left()
                reason = str(failure)
            except DistillError as error:
                lane.left()
                # Before the first answer this is a mistake in the config; later the key was
                # withdrawn, or the money is gone, and another teacher may go on.
                fatal = isinstance(error, UserError) and lane.health == "untried"
                self._close(name, error, fatal or not self._others(name))
                continue
            except StoreFull as error:
                lane.left()
                self._halt(_full_disk(error))
                raise _Stopped from error
            except BaseException:
                lane.left()
                raise
            self.counts.failed[_kind(reason)] += 1
            await self._put(self.store.put_failure(key.key, reason, self.ask.run, name))
            raise Refused(reason)

    async def _send(self, name: str, request: Request, key: Keyed) -> Reply:
        """One attempt. Its place in the lane is free again when the answer is on the disk."""
        lane, price = self._lanes[name], self.ask.prices.get(name)
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
            bought = Bought(self.ask.run, name, prompt, completion, cost, latency)
            await self.store.put(key, body, bought, labels)
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
            self._halt(
                UserError(
                    f"teacher {name}: declared with reasoning: true, but its first answer (model "
                    f"{reply.raw.get('model')!r}) holds none: neither a reasoning field nor "
                    "<think> tags; the answer is stored, nothing more was asked"
                )
            )

    def _count_bought(self, name: str, reply: Reply, bought: Bought) -> None:
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
            self._halt(
                Unfinished(
                    f"{counts.cut} of the first {counts.bought} answers were cut off at max_tokens "
                    f"{self.ask.sampling.max_tokens}: raise generate.sampling.max_tokens, or set "
                    "generate.truncation.alarm: null to go on; what was bought is stored"
                )
            )

    async def _check(self, record: Record) -> None:
        """Gives a record its verdicts and counts it."""
        if self.ask.check is not None or self.ask.count_tokens is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, self._check_here, record)
        self.counts.kept += record.rejected_by is None
        self.counts.rejected += _reasons(record)
        generation = record.generation
        if generation is not None and generation.student_tokens is not None:
            self.counts.student_tokens.append(generation.student_tokens)

    def _check_here(self, record: Record) -> None:
        """In a thread: filters and tokenizers take their time."""
        count, generation = self.ask.count_tokens, record.generation
        if count is not None and generation is not None and generation.student_tokens is None:
            generation.student_tokens = count(f"{record.reasoning or ''}{record.answer}")
        record.verdicts = self.ask.check(record) if self.ask.check is not None else []
        if self.ask.truncation.policy == "drop" and generation and is_cut(generation.finish_reason):
            record.verdicts.append(Verdict("truncation", False, "truncated"))

    def _record(
        self,
        name: str,
        request: Request,
        messages: list[Message],
        replies: list[Reply],
        task: Task,
    ) -> Record:
        reasoning, answer, finish = merged(replies)
        usages = [usage_of(reply.raw, self.ask.prices.get(name)) for reply in replies]
        prompt, completion, cost = (_total(column) for column in zip(*usages, strict=True))
        return Record(
            id=f"{task.id}-{name}-{request.sample}",
            task=task,
            messages=messages,
            reasoning=reasoning,
            answer=answer,
            generation=Generation(
                teacher=name,
                model=str(replies[-1].raw.get("model", "")),
                template=self.ask.prompt.name,
                template_hash=self.ask.prompt.hash,
                sampling=request.sampling,
                sample=request.sample,
                finish_reason=finish,
                prompt_tokens=prompt,
                completion_tokens=completion,
                cost_usd=cost,
                latency_s=sum(reply.latency for reply in replies),
                key=replies[-1].key,
                earlier_keys=[reply.key for reply in replies[:-1]],
            ),
        )

    async def _put(self, writing: Any) -> None:
        """Waits for a note to the store; a full disk stops the run."""
        try:
            await writing
        except StoreFull as error:
            self._halt(_full_disk(error))
            raise _Stopped from error

    def _others(self, name: str) -> bool:
        return any(lane.closed is None for other, lane in self._lanes.items() if other != name)

    def _close(self, name: str, error: DistillError, fatal: bool) -> None:
        """Gives one teacher up; where that is fatal, the whole run."""
        self.counts.out.setdefault(name, str(error))
        self._lanes[name].close(error)
        if fatal:
            place = "" if str(error).startswith(("budget.", "teachers.")) else f"teacher {name}: "
            self._halt(type(error)(f"{place}{error}"))

    def _none_left(self) -> None:
        """Every teacher is given up: the run ends."""
        name, lane = list(self._lanes.items())[-1]
        assert lane.closed is not None
        self._halt(type(lane.closed)(f"no teacher is left; {name}: {lane.closed}"))
        raise _Stopped

    def _halt(self, reason: DistillError) -> None:
        """Sends nothing more; what is in flight still comes."""
        self._stop = self._stop or reason
        for lane in self._lanes.values():
            lane.close(self._stop)

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


async def _all(work: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """What each gives, or raises: one that fails takes none of the others along."""
    first, *rest = work
    if rest:
        return await asyncio.gather(first, *rest, return_exceptions=True)
    try:  # a task more would cost as much as all the rest of it
        return [await first]
    except Exception as error:
        return [error]


def _settled(task: Task, agreed: Agreed) -> Task:
    """The question with the answer that was agreed on as its reference."""
    vote = {"votes": agreed.votes, "of": agreed.total}
    return replace(task, answer=agreed.answer, metadata={**task.metadata, "vote": vote})


def _reasons(record: Record) -> Counter[str]:
    rejected = record.rejected_by
    return Counter([rejected.kind] if rejected else [])


def _size(records: list[Record]) -> int:
    return sum(len(record.answer) + len(record.reasoning or "") for record in records)


def _total(values: Sequence[Any]) -> Any:
    """Their sum, or None where one of them is not known."""
    return None if None in values else sum(values)


def _kind(reason: str) -> str:
    return reason.split(":", 1)[0]


def _full_disk(error: StoreFull) -> Unfinished:
    return Unfinished(f"the response store takes no more ({error}); make room and run again")


def _backoff(attempt: int) -> float:
    """Seconds before the next attempt: doubling, and spread so as not to march in step."""
    return min(LONGEST_WAIT_S, 0.5 * 2.0 ** max(0, attempt - 1)) * random.uniform(0.5, 1.5)


async def generate(
    ask: Ask, store: Store, tasks: Iterable[Task], emit: Emit, counts: Counts
) -> None:
    """Answers every task; see `_Run.run`. Closes the teachers at the end."""
    try:
        for teacher in ask.teachers.values():
            if attach := getattr(teacher, "attach", None):
                attach(store)
        await _Run(ask, store, counts).run(tasks, emit)
    finally:
        for teacher in ask.teachers.values():
            await teacher.close()
