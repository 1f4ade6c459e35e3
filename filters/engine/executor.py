"""Executor of the filters over a data set: what was judged before is not judged again.

First run the filters that need nothing but the record, in several processes. Then run those that
wait for a teacher or hold a model, in this process, on what is not dropped so far. Then run the set
filters in the config's order, each on what all the others before it keep. Every outcome goes to the
store as it comes, so a kill costs the chunks that were under way. What each record's verdicts are
is then read from the store.
"""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filters.base import Context, SetCheck
from filters.engine.chunks import Chunk, chunks_of, read_chunk
from filters.engine.filter import Filter, Outcome, checked, close_check
from filters.engine.outcome_store import OutcomeStore, pack
from filters.engine.process_pool import Job, judge_chunks
from synth.core.errors import UserError
from synth.core.record import Record, digest

Say = Callable[[str], None]


@dataclass
class Progress:
    """How far it is: what is done now, and how many of its records are judged."""

    doing: str = ""
    done: int = 0
    total: int = 0
    started: float = field(default_factory=time.monotonic)

    def begin(self, doing: str, total: int) -> None:
        """Begins the next part of the work."""
        self.doing, self.done, self.total = doing, 0, total
        self.started = time.monotonic()


class Executor:
    """Filters over one split of a data set.

    Args:
        folder: The data set, as `synth.core.dataset.writing` writes it.
        split: Its split.
        content: A hash of its records: other records are judged anew.
        filters: The filters of the config.
        outcomes: Where outcomes are kept.
        make_context: Makes what filters in other processes are handed; it is pickled.
        context: What filters in this process are handed.
        dependencies: By filter name, what else its judgement depends on (the judge, the student).
        workers: How many processes.
        threads: How many records wait for a teacher at a time.
        say: Prints a line for the user.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        content: str,
        filters: Sequence[Filter],
        outcomes: OutcomeStore,
        make_context: Callable[[], Context],
        context: Context,
        dependencies: dict[str, Any],
        workers: int = 1,
        threads: int = 64,
        say: Say = lambda line: None,
    ) -> None:
        self.filters = list(filters)
        self.progress = Progress()
        self._outcomes, self._make_context, self._context = outcomes, make_context, context
        self._workers, self._threads, self._say = workers, threads, say
        self._chunks = chunks_of(folder, split)
        self._keys = {f.name: f.fingerprint(around=dependencies.get(f.name)) for f in self.filters}
        self._source = digest([content, split])
        self._data = {loaded.name: self._source for loaded in self.filters}
        # What a set filter says depends on which records reach it, and on what was said of them.
        alone = [self._identity(loaded) for loaded in self.filters if not _set(loaded)]
        before: list[Any] = [content, split, *alone]
        for loaded in filter(_set, self.filters):
            self._data[loaded.name] = digest(before)
            before.append(self._identity(loaded))

    def judge(self) -> None:
        """Fills the store with what is not in it."""
        alone = [loaded for loaded in self.filters if not _set(loaded)]
        self._judge_in_processes([loaded for loaded in alone if not _runs_here(loaded)])
        for loaded in filter(_runs_here, alone):
            self._judge_here(loaded)
        self._judge_sets([loaded for loaded in self.filters if _set(loaded)])

    def records(self) -> Iterator[Record]:
        """Every record in the data's order with its verdicts, in the config's order."""
        for chunk in self._chunks:
            yield from self._records(chunk, self.filters)

    def notes(self) -> dict[str, list[str]]:
        """What filters said of themselves, such as what they could not check."""
        notes = {
            loaded.name: self._outcomes.notes(self._keys[loaded.name], self._data[loaded.name])
            for loaded in self.filters
        }
        return {name: lines for name, lines in notes.items() if lines}

    def _identity(self, loaded: Filter) -> Any:
        return [self._keys[loaded.name], loaded.config.model_dump(mode="json")]

    def _records(
        self, chunk: Chunk, filters: list[Filter], rows: Sequence[int] | None = None
    ) -> Iterator[Record]:
        """Records of a chunk with what these filters say of them; some of its rows, or all."""
        columns = [(loaded, *self._stored(loaded, chunk)) for loaded in filters]
        indices = range(chunk.stop - chunk.start) if rows is None else rows
        for row, record in zip(indices, read_chunk(chunk, rows), strict=True):
            record.verdicts = [
                loaded.verdict(outcome, seconds)
                for loaded, outcomes, seconds in columns
                if (outcome := outcomes[row]) is not None
            ]
            yield record

    def _kept(self, chunk: Chunk, filters: list[Filter], rows: Iterable[int]) -> list[int]:
        """Which of these rows of a chunk the filters keep; the store alone tells."""
        kept = list(rows)
        for loaded in filters:
            outcomes = self._stored(loaded, chunk)[0]
            kept = [row for row in kept if (o := outcomes[row]) is None or not loaded.drops(o)]
        return kept

    def _stored(self, loaded: Filter, chunk: Chunk) -> tuple[list[Outcome | None], float]:
        """A filter's outcomes for a chunk, and the seconds that each of them took on average."""
        stored = self._outcomes.read(self._keys[loaded.name], self._data[loaded.name], chunk.number)
        if stored is None:
            return [None] * (chunk.stop - chunk.start), 0.0
        outcomes, seconds = stored
        return outcomes, seconds / max(1, sum(outcome is not None for outcome in outcomes))

    def _write(
        self, loaded: Filter, chunk: Chunk, outcomes: list[Outcome | None], seconds: float
    ) -> None:
        packed = {self._keys[loaded.name]: (pack(outcomes), seconds)}
        self._outcomes.write(self._data[loaded.name], chunk.number, packed)

    def _note(self, name: str, lines: list[str]) -> None:
        if lines and not self._outcomes.notes(self._keys[name], self._data[name]):
            self._outcomes.note(self._keys[name], self._data[name], lines)
            for line in lines:
                self._say(f"  {name}: {line}")

    def _judge_in_processes(self, filters: list[Filter]) -> None:
        judged = {
            loaded.name: self._outcomes.chunks(self._keys[loaded.name], self._data[loaded.name])
            for loaded in filters
        }
        jobs = []
        for chunk in self._chunks:
            names = frozenset(f.name for f in filters if chunk.number not in judged[f.name])
            if names:
                jobs.append(Job(chunk, names))
        self.progress.begin("judging", sum(job.chunk.stop - job.chunk.start for job in jobs))
        for job, outcomes, notes in judge_chunks(
            iter(jobs), self.filters, self._make_context, min(self._workers, len(jobs))
        ):
            packed = {self._keys[name]: value for name, value in outcomes.items()}
            self._outcomes.write(self._source, job.chunk.number, packed)
            for name, lines in notes.items():
                if name in outcomes:
                    self._note(name, lines)
            self.progress.done += job.chunk.stop - job.chunk.start

    def _judge_here(self, loaded: Filter) -> None:
        """Judges what the trace filters before it leave, and what is not in the store."""
        before = self.filters[: self.filters.index(loaded)]
        before = [earlier for earlier in before if not _set(earlier)]
        check = None
        self.progress.begin(loaded.name, sum(chunk.stop - chunk.start for chunk in self._chunks))
        try:
            for chunk in self._chunks:
                outcomes, seconds = self._stored(loaded, chunk)
                rows = [row for row, outcome in enumerate(outcomes) if outcome is None]
                rows = self._kept(chunk, before, rows)
                if rows:
                    if check is None:
                        check = loaded.build(self._context)
                    records = list(self._records(chunk, before, rows))
                    start = time.perf_counter()
                    judged = self._judge_records(loaded, check, records)
                    for row, outcome in zip(rows, judged, strict=True):
                        outcomes[row] = outcome
                    # Of the chunk, not of each record: those that wait for a teacher wait together.
                    self._write(loaded, chunk, outcomes, seconds + time.perf_counter() - start)
                self.progress.done += chunk.stop - chunk.start
        finally:
            close_check(check)
        if check is not None:
            self._note(loaded.name, list(getattr(check, "notes", [])))

    def _judge_records(self, loaded: Filter, check: Any, records: list[Record]) -> list[Outcome]:
        if not loaded.needs("teacher"):
            return [loaded.judge(check, record) for record in records]
        with ThreadPoolExecutor(self._threads, thread_name_prefix="filter") as pool:
            return list(pool.map(lambda record: loaded.judge(check, record), records))

    def _judge_sets(self, filters: list[Filter]) -> None:
        """Runs set filters one after the other, each on what all before it keep.

        What is in the store is not run again. Which rows are kept so far is held: 2.5 bytes a
        record.
        """
        if all(self._is_judged(loaded) for loaded in filters):
            return
        before = [loaded for loaded in self.filters if not _set(loaded)]
        kept = [array("H", range(chunk.stop - chunk.start)) for chunk in self._chunks]
        for loaded in filters:
            for chunk in self._chunks:
                kept[chunk.number] = array("H", self._kept(chunk, before, kept[chunk.number]))
            if not self._is_judged(loaded):
                self._judge_set(loaded, kept)
            before = [loaded]

    def _is_judged(self, loaded: Filter) -> bool:
        """Whether all that a set filter says is in the store."""
        judged = self._outcomes.chunks(self._keys[loaded.name], self._data[loaded.name])
        return len(judged) == len(self._chunks)

    def _judge_set(self, loaded: Filter, kept: list[array[int]]) -> None:
        """Runs a set filter on these rows of each chunk."""
        index = self.filters.index(loaded)
        before = [f for i, f in enumerate(self.filters) if not _set(f) or i < index]
        total = sum(map(len, kept))
        self._state_memory(loaded, total)
        self.progress.begin(loaded.name, total)
        passes = itertools.count(1)
        check: SetCheck = loaded.build(self._context)

        def records() -> Iterator[Record]:
            self.progress.begin(f"{loaded.name}, pass {next(passes)},", total)
            for chunk in self._chunks:
                if rows := kept[chunk.number]:
                    yield from self._records(chunk, before, rows)
                    self.progress.done += len(rows)

        start = time.perf_counter()
        try:
            decisions = check(records)
            for chunk in self._chunks:
                outcomes: list[Outcome | None] = [None] * (chunk.stop - chunk.start)
                for row in kept[chunk.number]:
                    outcomes[row] = checked(next(decisions))
                now = time.perf_counter()
                self._write(loaded, chunk, outcomes, now - start)
                start = now
            if next(decisions, None) is not None:
                raise RuntimeError(f"the filter {loaded.name} gave more decisions than records")
            self._note(loaded.name, list(getattr(check, "notes", [])))
        finally:
            close_check(check)

    def _state_memory(self, loaded: Filter, records: int) -> None:
        """Says what a set filter will hold, and refuses what the machine has not got."""
        estimate = getattr(loaded.module, "memory", None)
        if estimate is None:
            return
        needed = estimate(loaded.config, records)
        if needed > 100e6:
            self._say(
                f"  {loaded.name} will hold up to {needed / 1e6:,.0f} MB for {records:,} records"
            )
        free = _free_memory()
        if free is not None and needed > free:
            raise UserError(
                f"the filter {loaded.name} needs {needed / 1e9:.1f} GB for {records:,} records, "
                f"and {free / 1e9:.1f} GB are free"
            )


def _set(loaded: Filter) -> bool:
    return loaded.level == "set"


def _runs_here(loaded: Filter) -> bool:
    """Whether a filter runs in this process: it waits for a teacher, or holds a model."""
    return loaded.needs("teacher") or loaded.needs("one_process")


def _free_memory() -> int | None:
    """Bytes that are to be had without swapping, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kibibytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable")), None)
    return None if kibibytes is None else int(kibibytes) * 1024
