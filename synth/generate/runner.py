"""Runner of a generation: many questions at a time, each answer stored before it counts.

Everything here reads the response store first, so running it again after a kill, or with other
filters, buys only what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from synth.core.errors import Interrupted, Unfinished
from synth.core.process.interrupts import AGAIN, say_interrupted, stops_gently
from synth.core.progress import duration
from synth.core.record import Record, Task
from synth.generate.adaptive_sampling import PassRateModel
from synth.generate.client import ResponseClient, RunStopping
from synth.generate.question_loop import QuestionLoop
from synth.generate.sampler import Sampler
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.store.responses import ResponseStore

# Questions begun beyond what the teachers may have in flight: while some are checked or wait to
# be tried again, others are asked.
AHEAD = 1.25
# Seconds after Ctrl-C in which what is not paid for (a batch, a pause) has let go.
LET_GO_S = 0.05
# Requests that wait to be tried again take no place of a question, up to so many for each place:
# in an outage every question would begin.
RETRYING = 4
# Characters of finished questions that wait for one before them; beyond this none is begun.
MAX_WAITING_CHARACTERS = 64 * 1024 * 1024

Emit = Callable[[Task, list[Record]], None]


class _Runner:
    def __init__(self, spec: GenerationSpec, store: ResponseStore, counts: GenerationStats) -> None:
        self._counts = counts
        self._client = ResponseClient(spec, store, counts)
        self._model = PassRateModel(spec.samples)
        self._client.on_halt.append(self._model.release)
        self._client.on_retry.append(lambda: self._finished.set())
        self._threads = ThreadPoolExecutor(spec.check_threads, thread_name_prefix="check")
        self._sampler = Sampler(self._client, self._threads)
        ceilings = sum(c.limits.ceiling for c in self._client.controllers.values())
        self._max_active = 8 + int(AHEAD * ceilings)
        self._pending: deque[tuple[Task, asyncio.Task[list[Record]]]] = deque()
        self._active = self._waiting_characters = 0
        self._finished = asyncio.Event()

    async def run(self, tasks: Iterable[Task], emit: Emit) -> None:
        """Answer every task and hand its records to `emit`, in the order of the tasks."""
        loop = asyncio.get_running_loop()
        with stops_gently(lambda: loop.call_soon_threadsafe(self._interrupt)):
            await self._run(tasks, emit)

    async def _run(self, tasks: Iterable[Task], emit: Emit) -> None:
        pending = self._pending
        try:
            for task in tasks:
                if self._client.stop:
                    break
                learning = self._model.begin(task.source)
                self._active += 1
                pending.append((task, asyncio.create_task(self._question(task, learning))))
                while pending and (pending[0][1].done() or self._full()):
                    await self._advance(emit)
            self._model.end()
            while pending and not self._client.stop:
                await self._advance(emit)
        except BaseException:
            self._client.halt(Unfinished("stopped by an error"))
            raise
        finally:
            # What is in flight is paid for: wait for it, whatever the reason to stop.
            await asyncio.gather(*(work for _, work in pending), return_exceptions=True)
            self._threads.shutdown(wait=False)
        for task, work in pending:
            if not work.cancelled():
                emit(task, work.result())
        if self._client.stop:
            raise self._client.stop

    def _full(self) -> bool:
        retrying = min(self._client.retrying, RETRYING * self._max_active)
        places = self._max_active + retrying
        return self._active >= places or self._waiting_characters > MAX_WAITING_CHARACTERS

    async def _advance(self, emit: Emit) -> None:
        """Hand on the first question if it is done, or wait until some question is."""
        task, work = self._pending[0]
        if work.done():
            self._pending.popleft()
            self._waiting_characters -= _characters(work.result())
            emit(task, work.result())
        else:
            self._finished.clear()
            await self._finished.wait()

    async def _question(self, task: Task, learning: bool) -> list[Record]:
        """Return the records of one question; on a stop, those that came before it."""
        loop = QuestionLoop(task, learning, self._sampler, self._model, self._aside())
        try:
            await loop.run()
            self._counts.questions += 1
            self._counts.solved += any(record.rejected_by is None for record in loop.records)
        except RunStopping:
            pass
        finally:
            self._active -= 1
            self._waiting_characters += _characters(loop.records)
            self._finished.set()
        return loop.records

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Take a question out of those under way while it waits for others."""
        self._active -= 1
        self._finished.set()
        try:
            yield
        finally:
            self._active += 1

    def _interrupt(self) -> None:
        """Stop the sending after Ctrl-C, and say what is waited for."""
        stop = Interrupted("interrupted; every answer that came is stored, a rerun goes on")
        self._client.halt(stop)
        self._counts.stopping = True
        asyncio.get_running_loop().call_later(LET_GO_S, self._say_waiting)

    def _say_waiting(self) -> None:
        in_flight = self._counts.in_flight
        if not in_flight:
            say_interrupted(f"nothing is in flight; ending. {AGAIN}")
            return
        requests = "1 request is" if in_flight == 1 else f"{in_flight} requests are"
        limits = [teacher.longest_s for teacher in self._client.spec.teachers.values()]
        longest = max(limit or math.inf for limit in limits)
        at_most = "" if longest == math.inf else f", at most {duration(longest)}"
        paid = " and paid for" if any(limits) else ""
        say_interrupted(f"{requests} in flight{paid}: waiting for the answers{at_most}. {AGAIN}")


def _characters(records: list[Record]) -> int:
    return sum(len(record.answer) + len(record.reasoning or "") for record in records)


async def generate(
    spec: GenerationSpec,
    store: ResponseStore,
    tasks: Iterable[Task],
    emit: Emit,
    counts: GenerationStats,
) -> None:
    """Answer every task, then close the teachers; `counts` is filled on the way.

    `emit` takes each question with its records, in the order of the questions. A run that stops
    hands on what it has of the questions that it had begun.

    Raises:
        UserError: A mistake that no retry mends (wrong key, unknown model, wrong address).
        Unfinished: A cap is reached, no teacher is left, or the store's disk is full.
        Interrupted: Ctrl-C; what was in flight has come. A second one is a KeyboardInterrupt.

    Example:
        >>> asyncio.run(generate(spec, store, tasks, emit, GenerationStats()))  # doctest: +SKIP
    """
    # The garbage collector need not walk through all loaded modules again and again meanwhile.
    frozen_before = gc.get_freeze_count() > 0  # by the user's own program: that stays so
    gc.freeze()
    try:
        for teacher in spec.teachers.values():
            teacher.open(store, spec.run)
        await _Runner(spec, store, counts).run(tasks, emit)
    finally:
        if not frozen_before:
            gc.unfreeze()
        for teacher in spec.teachers.values():
            await teacher.close()
