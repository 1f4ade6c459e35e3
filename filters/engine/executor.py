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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filters.base import Context, SetCheck
from filters.engine.chunks import Chunk, chunks_of, read_chunk
from filters.engine.filter import Filter, Outcome, checked, close_check
from filters.engine.outcome_store import Key, OutcomeStore, pack
from filters.engine.process_pool import Job, judge_chunks
from synth.core.errors import UserError
from synth.core.record import Record, digest


@dataclass
class Progress:
    """What is done now, and how many of its records are judged."""

    doing: str = ""
    done: int = 0
    total: int = 0
    started: float = field(default_factory=time.monotonic)

    def begin(self, doing: str, total: int) -> None:
        """Begins the next part of the work."""
        self.doing, self.done, self.total = doing, 0, total
        self.started = time.monotonic()


@dataclass
class Executor:
    """Filters over one split of a data set that `synth.core.dataset.writing` wrote."""

    folder: Path
    split: str
    content: str  # a hash of the records: other records are judged anew
    filters: Sequence[Filter]
    outcomes: OutcomeStore
    make_context: Callable[[], Context]  # for filters in other processes; it is pickled
    context: Context  # what filters in this process are handed
    dependencies: Mapping[str, Any]  # by filter, what else it judges by (the judge, the student)
    workers: int = 1  # processes
    threads: int = 64  # records that wait for a teacher at a time
    say: Callable[[str], None] = lambda line: None
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self._chunks = chunks_of(self.folder, self.split)
        self._alone = [loaded for loaded in self.filters if loaded.level != "set"]
        self._sets = [loaded for loaded in self.filters if loaded.level == "set"]
        self._keys: dict[str, Key] = {}
        source = digest([self.content, self.split])
        # What a set filter says depends on which records reach it, and on what was said of them.
        before: list[Any] = [self.content, self.split]
        for loaded in [*self._alone, *self._sets]:
            fingerprint = loaded.fingerprint(around=self.dependencies.get(loaded.name))
            data = digest(before) if loaded.level == "set" else source
            self._keys[loaded.name] = fingerprint, data
            before.append([fingerprint, loaded.config.model_dump(mode="json")])

    def judge(self) -> None:
        """Fills the store with what is not in it."""
        here = [f for f in self._alone if f.needs("teacher") or f.needs("one_process")]
        self._judge_in_processes([loaded for loaded in self._alone if loaded not in here])
        for loaded in here:
            self._judge_here(loaded)
        self._judge_sets()

    def records(self) -> Iterator[Record]:
        """Every record in the data's order with its verdicts, in the config's order."""
        for chunk in self._chunks:
            yield from self._records(chunk, self.filters)

    def notes(self) -> dict[str, list[str]]:
        """What filters said of themselves, such as what they could not check."""
        notes = {name: self.outcomes.notes(key) for name, key in self._keys.items()}
        return {loaded.name: notes[loaded.name] for loaded in self.filters if notes[loaded.name]}

    def _records(
        self, chunk: Chunk, filters: Sequence[Filter], rows: Sequence[int] | None = None
    ) -> Iterator[Record]:
        """Records of a chunk with what these filters say of them; some of its rows, or all."""
        columns = []
        for loaded in filters:
            outcomes, seconds = self._stored(loaded, chunk)
            count = sum(outcome is not None for outcome in outcomes)
            columns.append((loaded, outcomes, seconds / max(1, count)))
        indices = range(chunk.rows) if rows is None else rows
        for row, record in zip(indices, read_chunk(chunk, rows), strict=True):
            record.verdicts = [
                loaded.verdict(outcome, seconds)
                for loaded, outcomes, seconds in columns
                if (outcome := outcomes[row]) is not None
            ]
            yield record

    def _kept(self, chunk: Chunk, filters: Sequence[Filter], rows: Iterable[int]) -> list[int]:
        """Which of these rows of a chunk the filters keep; the store alone tells."""
        kept = list(rows)
        for loaded in filters:
            outcomes = self._stored(loaded, chunk)[0]
            kept = [row for row in kept if (o := outcomes[row]) is None or not loaded.drops(o)]
        return kept

    def _stored(self, loaded: Filter, chunk: Chunk) -> tuple[list[Outcome | None], float]:
        """A filter's outcomes for a chunk, and the seconds that they took together."""
        stored = self.outcomes.read(self._keys[loaded.name], chunk.number)
        return stored or ([None] * chunk.rows, 0.0)

    def _write(
        self, loaded: Filter, chunk: Chunk, outcomes: list[Outcome | None], seconds: float
    ) -> None:
        key = self._keys[loaded.name]
        self.outcomes.write(chunk.number, {key: (pack(outcomes), seconds)})

    def _note(self, name: str, lines: list[str]) -> None:
        if lines and not self.outcomes.notes(self._keys[name]):
            self.outcomes.note(self._keys[name], lines)
            for line in lines:
                self.say(f"  {name}: {line}")

    def _judge_in_processes(self, filters: list[Filter]) -> None:
        judged = {f.name: self.outcomes.chunks(self._keys[f.name]) for f in filters}
        jobs = []
        for chunk in self._chunks:
            names = frozenset(f.name for f in filters if chunk.number not in judged[f.name])
            if names:
                jobs.append(Job(chunk, names))
        self.progress.begin("judging", sum(job.chunk.rows for job in jobs))
        workers = min(self.workers, len(jobs))
        for job, (outcomes, notes) in judge_chunks(jobs, self.filters, self.make_context, workers):
            packed = {self._keys[name]: value for name, value in outcomes.items()}
            self.outcomes.write(job.chunk.number, packed)
            for name, lines in notes.items():
                if name in outcomes:
                    self._note(name, lines)
            self.progress.done += job.chunk.rows

    def _judge_here(self, loaded: Filter) -> None:
        """Judges what the trace filters before it leave, and what is not in the store."""
        before = self._alone[: self._alone.index(loaded)]
        check = None
        self.progress.begin(loaded.name, sum(chunk.rows for chunk in self._chunks))
        try:
            for chunk in self._chunks:
                outcomes, seconds = self._stored(loaded, chunk)
                rows = [row for row, outcome in enumerate(outcomes) if outcome is None]
                rows = self._kept(chunk, before, rows)
                if rows:
                    if check is None:
                        check = loaded.build(self.context)
                    records = list(self._records(chunk, before, rows))
                    start = time.perf_counter()
                    judged = self._judge_records(loaded, check, records)
                    for row, outcome in zip(rows, judged, strict=True):
                        outcomes[row] = outcome
                    # Of the chunk, not of each record: those that wait for a teacher wait together.
                    self._write(loaded, chunk, outcomes, seconds + time.perf_counter() - start)
                self.progress.done += chunk.rows
        finally:
            close_check(check)
        if check is not None:
            self._note(loaded.name, list(getattr(check, "notes", [])))

    def _judge_records(self, loaded: Filter, check: Any, records: list[Record]) -> list[Outcome]:
        if not loaded.needs("teacher"):
            return [loaded.judge(check, record) for record in records]
        with ThreadPoolExecutor(self.threads, thread_name_prefix="filter") as pool:
            return list(pool.map(lambda record: loaded.judge(check, record), records))

    def _judge_sets(self) -> None:
        """Runs set filters one after the other, each on what all before it keep.

        Which rows are kept so far is held: 2.5 bytes a record.
        """
        if all(map(self._is_judged, self._sets)):
            return
        before = self._alone
        kept = [array("H", range(chunk.rows)) for chunk in self._chunks]
        for loaded in self._sets:
            for chunk in self._chunks:
                kept[chunk.number] = array("H", self._kept(chunk, before, kept[chunk.number]))
            if not self._is_judged(loaded):
                self._judge_set(loaded, kept)
            before = [loaded]

    def _is_judged(self, loaded: Filter) -> bool:
        """Whether all that a set filter says is in the store."""
        return len(self.outcomes.chunks(self._keys[loaded.name])) == len(self._chunks)

    def _judge_set(self, loaded: Filter, kept: list[array[int]]) -> None:
        """Runs a set filter on these rows of each chunk."""
        index = self.filters.index(loaded)
        before = [f for i, f in enumerate(self.filters) if f.level != "set" or i < index]
        total = sum(map(len, kept))
        self._state_memory(loaded, total)
        self.progress.begin(loaded.name, total)
        passes = itertools.count(1)
        check: SetCheck = loaded.build(self.context)

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
                outcomes: list[Outcome | None] = [None] * chunk.rows
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
            self.say(
                f"  {loaded.name} will hold up to {needed / 1e6:,.0f} MB for {records:,} records"
            )
        free = _free_memory()
        if free is not None and needed > free:
            raise UserError(
                f"the filter {loaded.name} needs {needed / 1e9:.1f} GB for {records:,} records, "
                f"and {free / 1e9:.1f} GB are free"
            )


def _free_memory() -> int | None:
    """Bytes that are to be had without swapping, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kibibytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable")), None)
    return None if kibibytes is None else int(kibibytes) * 1024
