"""Asking the teachers: each question until it is done, each answer stored before it counts.

Everything here reads the response store first, so running it again after a kill, or with other
filters, buys only what is missing.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from synth.core.errors import Interrupted, Unfinished, UserError
from synth.core.reasoning import is_cut
from synth.core.record import Generation, Message, Record, Request, Task, Verdict
from synth.core.usage import usage_of
from synth.generate.adaptive_sampling import PassRateModel
from synth.generate.client import ResponseClient, RunStopping
from synth.generate.concurrency import TeacherClosed
from synth.generate.responses import Reply, continuation, merged
from synth.generate.routing import SampleSlot
from synth.generate.spec import GenerationSpec, VoteResult
from synth.generate.stats import GenerationStats
from synth.store.keys import request_key
from synth.store.responses import ResponseStore
from synth.teachers.base import RequestRejected

# Questions begun beyond what the teachers may have in flight: while some are checked or wait to
# be tried again, others are asked.
AHEAD = 1.25
# Answers of a question after which it has taught enough of how much hope there is; from there on
# it is asked like the others.
LEARNS_FROM = 6
# Characters of finished questions that wait for one before them; beyond this none is begun.
MOST_HELD = 64 * 1024 * 1024

Emit = Callable[[Task, list[Record]], None]


class _Run:
    """One generation under way. `run` does it all; the rest is its parts."""

    def __init__(self, ask: GenerationSpec, store: ResponseStore, counts: GenerationStats) -> None:
        self.ask, self.store, self.counts = ask, store, counts
        self.buyer = ResponseClient(ask, store, counts)
        self._route = ask.plan()
        self._hope = PassRateModel(ask.samples)
        self.buyer.on_halt.append(self._hope.release)
        cascade = ask.route == "cascade"  # there a later teacher has to be learned of too
        self._learns_from = ask.samples.max if cascade else LEARNS_FROM
        self._threads = ThreadPoolExecutor(ask.check_threads, thread_name_prefix="check")
        ceilings = sum(lane.limits.ceiling for lane in self.buyer.lanes.values())
        self._most_active = 8 + int(AHEAD * ceilings)
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
                if self.buyer.stop:
                    break
                learning = self._hope.begin(task.source)
                self._active += 1
                pending.append((task, asyncio.create_task(self._question(task, learning))))
                while pending and (pending[0][1].done() or self._full()):
                    await self._advance(pending, emit)
            self._hope.ended()
            while pending and not self.buyer.stop:
                await self._advance(pending, emit)
        except BaseException:
            self.buyer.halt(Unfinished("stopped by an error"))
            raise
        finally:
            # What is in flight is paid for: wait for it, whatever the reason to stop.
            await asyncio.gather(*(work for _, work in pending), return_exceptions=True)
            self._threads.shutdown(wait=False)
            if handled:
                asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        for task, work in pending:
            if not work.cancelled():
                emit(task, work.result())
        if self.buyer.stop:
            raise self.buyer.stop

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
        except RunStopping:
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
            self.buyer.halt(UserError(f"{error} (question {task.id})"))
            raise RunStopping from error
        slots = deque(self._route.order(task.question, samples.max))
        tally: dict[str, list[int]] = {}
        voting = self.ask.vote is not None and task.answer is None
        votes = waves = 0
        while slots:
            if learning and len(records) >= self._learns_from:
                self._hope.learn(task, {key: (p, f) for key, (p, f) in tally.items()})
                learning = False
                # Others to learn from must be able to begin meanwhile.
                self._active -= 1
                self._finished.set()
                await self._hope.known(task.source)
                self._active += 1
            elif waves and not learning:
                await self._hope.known(task.source)
            verified = sum(passed for passed, _ in tally.values())
            wanted = (
                len(slots)
                if samples.until_verified is None
                else self._wanted(verified, first=not waves)
            )
            if voting:
                wanted = max(wanted, self.ask.agree - votes)
                if len(slots) < self.ask.agree - votes:  # it cannot be reached any more
                    break
            wave = self._wave(slots, wanted, task, tally, hopeful=learning or not waves)
            if not wave:
                break
            waves += 1
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
            self._hope.learn(task, {key: (p, f) for key, (p, f) in tally.items()})

    def _wanted(self, verified: int, first: bool) -> int:
        assert self.ask.samples.until_verified is not None
        wanted = self.ask.samples.until_verified - verified
        return max(wanted, self.ask.samples.start or 0) if first else wanted

    def _wave(
        self,
        slots: deque[SampleSlot],
        wanted: int,
        task: Task,
        tally: dict[str, list[int]],
        hopeful: bool,
    ) -> list[SampleSlot]:
        """Takes the next samples, of one teacher only in a cascade: the next may not be needed."""
        wave: list[SampleSlot] = []
        cascade = self.ask.route == "cascade"
        while slots and len(wave) < wanted:
            slot = slots[0]
            if cascade and wave and slot.teacher != wave[0].teacher:
                break
            key = slot.teacher if cascade else ""
            lost = not hopeful and self._hope.lost(task, key, *tally.get(key, (0, 0)))
            if lost and not cascade:
                self.counts.gave_up += not wave
                break
            slots.popleft()
            if not lost:
                wave.append(slot)
        return wave

    def _score(self, tally: dict[str, list[int]], record: Record) -> None:
        assert record.generation is not None
        key = record.generation.teacher if self.ask.route == "cascade" else ""
        tally.setdefault(key, [0, 0])[record.rejected_by is not None] += 1

    async def _vote(self, records: list[Record]) -> VoteResult | None:
        assert self.ask.vote is not None
        answers = [record.answer for record in records]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self.ask.vote, answers)

    async def _sample(self, task: Task, messages: list[Message], slot: SampleSlot) -> Record | None:
        """One answer as a record, from whichever teacher gives it; None if none does."""
        names = [slot.teacher]
        if self.ask.route != "cascade":
            names += self._route.substitutes(slot.teacher)
        if len(names) > 1:
            own = request_key(
                self._request(task, messages, slot.sample), self.ask.teachers[names[0]].identity
            ).key
            if (fallback_teacher := self.store.fallback_teacher(own)) in names:
                names = [str(fallback_teacher)]
        for name in names:
            try:
                record = await self._answer(task, messages, name, slot.sample)
            except TeacherClosed:
                continue
            except RequestRejected:
                if self.ask.route == "fallback" and name != names[-1]:
                    continue
                return None
            if name != slot.teacher:
                await self.buyer.put(self.store.persist_fallback_teacher(own, name))
            return record
        self.buyer.end_if_none_left()
        return None

    async def _answer(self, task: Task, messages: list[Message], name: str, sample: int) -> Record:
        """One answer of one teacher, continued or asked again where it was cut off."""
        policy = self.ask.truncation
        request = self._request(task, messages, sample)
        replies = [await self.buyer.reply(name, request)]
        for _ in range(policy.times):
            if policy.policy not in ("raise_max_tokens", "continue") or not replies[-1].cut:
                break
            if policy.policy == "continue":
                request = continuation(request, messages, replies)
            else:
                limit = int(request.sampling["max_tokens"] * policy.factor)
                request = replace(request, sampling={**request.sampling, "max_tokens": limit})
                replies = []
            replies.append(await self.buyer.reply(name, request))
        record = self._record(name, request, messages, replies, task)
        await self._check(record)
        return record

    def _request(self, task: Task, messages: list[Message], sample: int) -> Request:
        return Request(messages, self.ask.sampling.parameters(sample), sample, task)

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

    def _handle_interrupt(self) -> bool:
        """Ctrl-C stops the sending and waits for what is in flight; a second one does not wait."""
        loop = asyncio.get_running_loop()
        running = asyncio.current_task()

        def interrupted() -> None:
            if self.buyer.stop is None:
                self.buyer.halt(
                    Interrupted("interrupted; every answer that came is stored, a rerun goes on")
                )
            elif running is not None:
                loop.remove_signal_handler(signal.SIGINT)
                for other in asyncio.all_tasks(loop):
                    if other is not running:
                        other.cancel()

        try:
            loop.add_signal_handler(signal.SIGINT, interrupted)
        except (ValueError, RuntimeError, NotImplementedError):
            return False  # Python gives signals to the main thread alone, and no loop on Windows
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


def _settled(task: Task, agreed: VoteResult) -> Task:
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


async def generate(
    ask: GenerationSpec, store: ResponseStore, tasks: Iterable[Task], emit: Emit, counts: GenerationStats
) -> None:
    """Answers every task; see `_Run.run`. Closes the teachers at the end."""
    try:
        for teacher in ask.teachers.values():
            if attach := getattr(teacher, "attach", None):
                attach(store, ask.run)
        await _Run(ask, store, counts).run(tasks, emit)
    finally:
        for teacher in ask.teachers.values():
            await teacher.close()
