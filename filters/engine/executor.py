"""The filters of a config over a data set: what was judged before is not judged again.

First the filters that need nothing but the record, in several processes; then those that wait for
a teacher or hold a model, in this one, on what is not dropped so far; then the set filters in the
config's order, each on what all the others before it keep. Every outcome goes to the ledger as it
comes, so a kill costs the pieces that were under way. What each record's verdicts are is then read
from the ledger.
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
from filters.engine.chunks import Chunk, pieces_of, read_piece
from filters.engine.filter import Filter, FilterSpec, Outcome, checked, load_filters
from filters.engine.outcome_store import OutcomeStore, pack
from filters.engine.process_pool import Job, judge_pieces
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
        """The next part of the work."""
        self.doing, self.done, self.total = doing, 0, total
        self.started = time.monotonic()


class Executor:
    """Filters over one split of a data set.

    Args:
        folder: The data set, as `synth.core.dataset.writing` writes it.
        split: Its split.
        content: A hash of its records: other records are judged anew.
        specs: The filters of the config.
        ledger: Where outcomes are kept.
        make_context: Makes what filters in other processes are handed; it is pickled.
        context: What filters in this process are handed.
        around: By filter name, what else its judgement depends on (the judge, the student).
        workers: How many processes.
        threads: How many records wait for a teacher at a time.
        say: Prints a line for the user.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        content: str,
        specs: list[FilterSpec],
        ledger: OutcomeStore,
        make_context: Callable[[], Context],
        context: Context,
        around: dict[str, Any],
        workers: int = 1,
        threads: int = 64,
        say: Say = lambda line: None,
    ) -> None:
        self.filters = load_filters(specs)
        self.progress = Progress()
        self._specs, self._ledger = specs, ledger
        self._make_context, self._context = make_context, context
        self._workers, self._threads, self._say = workers, threads, say
        self._pieces = pieces_of(folder, split)
        self._keys = {
            one.name: one.fingerprint(around=around.get(one.name)) for one in self.filters
        }
        self._source = digest([content, split])
        self._data = {one.name: self._source for one in self.filters}
        # What a set filter says depends on which records reach it, and on what was said of them.
        before: list[Any] = [
            content,
            split,
            *(self._manner(x) for x in self.filters if not _set(x)),
        ]
        for one in filter(_set, self.filters):
            self._data[one.name] = digest(before)
            before.append(self._manner(one))

    def judge(self) -> None:
        """Fills the ledger with what is not in it."""
        alone = [one for one in self.filters if not _set(one)]
        self._in_processes([one for one in alone if not _here(one)])
        for one in filter(_here, alone):
            self._in_this_process(one)
        self._over_the_sets([one for one in self.filters if _set(one)])

    def records(self) -> Iterator[Record]:
        """Every record in the data's order with its verdicts, in the config's order."""
        for piece in self._pieces:
            yield from self._records(piece, self.filters)

    def notes(self) -> dict[str, list[str]]:
        """What filters said of themselves, such as what they could not check."""
        said = {
            one.name: self._ledger.notes(self._keys[one.name], self._data[one.name])
            for one in self.filters
        }
        return {name: notes for name, notes in said.items() if notes}

    def _manner(self, one: Filter) -> Any:
        return [self._keys[one.name], one.config.model_dump(mode="json")]

    def _records(
        self, piece: Chunk, filters: list[Filter], rows: Sequence[int] | None = None
    ) -> Iterator[Record]:
        """Records of a piece with what these filters say of them; some of its rows, or all."""
        columns = [(one, *self._outcomes(one, piece)) for one in filters]
        places = range(piece.stop - piece.start) if rows is None else rows
        for row, record in zip(places, read_piece(piece, rows), strict=True):
            record.verdicts = [
                one.verdict(outcome, seconds)
                for one, outcomes, seconds in columns
                if (outcome := outcomes[row]) is not None
            ]
            yield record

    def _kept(self, piece: Chunk, filters: list[Filter], rows: Iterable[int]) -> list[int]:
        """Which of these rows of a piece the filters keep; the ledger alone tells."""
        kept = list(rows)
        for one in filters:
            outcomes = self._outcomes(one, piece)[0]
            kept = [row for row in kept if (o := outcomes[row]) is None or not one.drops(o)]
        return kept

    def _outcomes(self, one: Filter, piece: Chunk) -> tuple[list[Outcome | None], float]:
        """A filter's outcomes for a piece, and the seconds that each of them took on average."""
        found = self._ledger.read(self._keys[one.name], self._data[one.name], piece.number)
        if found is None:
            return [None] * (piece.stop - piece.start), 0.0
        judged = sum(outcome is not None for outcome in found[0])
        return found[0], found[1] / max(1, judged)

    def _write(self, one: Filter, piece: Chunk, outcomes: list[Outcome | None], s: float) -> None:
        found = {self._keys[one.name]: (pack(outcomes), s)}
        self._ledger.write(self._data[one.name], piece.number, found)

    def _note(self, name: str, said: list[str]) -> None:
        if said and not self._ledger.notes(self._keys[name], self._data[name]):
            self._ledger.note(self._keys[name], self._data[name], said)
            for line in said:
                self._say(f"  {name}: {line}")

    def _in_processes(self, filters: list[Filter]) -> None:
        have = {
            one.name: self._ledger.pieces(self._keys[one.name], self._data[one.name])
            for one in filters
        }
        jobs = []
        for piece in self._pieces:
            names = frozenset(one.name for one in filters if piece.number not in have[one.name])
            if names:
                jobs.append(Job(piece, names))
        self.progress.begin("judging", sum(job.piece.stop - job.piece.start for job in jobs))
        for job, outcomes, notes in judge_pieces(
            iter(jobs), self._specs, self._make_context, min(self._workers, len(jobs))
        ):
            found = {self._keys[name]: one for name, one in outcomes.items()}
            self._ledger.write(self._source, job.piece.number, found)
            for name, said in notes.items():
                if name in outcomes:
                    self._note(name, said)
            self.progress.done += job.piece.stop - job.piece.start

    def _in_this_process(self, one: Filter) -> None:
        """Judges what the trace filters before it leave, and what is not in the ledger."""
        before = self.filters[: self.filters.index(one)]
        before = [other for other in before if not _set(other)]
        check = None
        self.progress.begin(one.name, sum(piece.stop - piece.start for piece in self._pieces))
        try:
            for piece in self._pieces:
                outcomes, seconds = self._outcomes(one, piece)
                rows = [row for row, outcome in enumerate(outcomes) if outcome is None]
                rows = self._kept(piece, before, rows)
                if rows:
                    if check is None:
                        check = one.module.build(one.config, self._context)
                    records = list(self._records(piece, before, rows))
                    start = time.perf_counter()
                    for row, outcome in zip(rows, self._all(one, check, records), strict=True):
                        outcomes[row] = outcome
                    # Of the piece, not of each record: those that wait for a teacher wait together.
                    self._write(one, piece, outcomes, seconds + time.perf_counter() - start)
                self.progress.done += piece.stop - piece.start
        finally:
            if close := getattr(check, "close", None):
                close()
        if check is not None:
            self._note(one.name, list(getattr(check, "notes", [])))

    def _all(self, one: Filter, check: Any, records: list[Record]) -> list[Outcome]:
        if not one.needs("teacher"):
            return [one.judge(check, record) for record in records]
        with ThreadPoolExecutor(self._threads, thread_name_prefix="filter") as pool:
            return list(pool.map(lambda record: one.judge(check, record), records))

    def _over_the_sets(self, filters: list[Filter]) -> None:
        """Runs set filters one after the other, each on what all before it keep.

        What is in the ledger is not run again. Which rows are kept so far is held: 2.5 bytes a
        record.
        """
        if all(self._whole(one) for one in filters):
            return
        before = [one for one in self.filters if not _set(one)]
        kept = [array("H", range(piece.stop - piece.start)) for piece in self._pieces]
        for one in filters:
            for piece in self._pieces:
                kept[piece.number] = array("H", self._kept(piece, before, kept[piece.number]))
            if not self._whole(one):
                self._over_the_set(one, kept)
            before = [one]

    def _whole(self, one: Filter) -> bool:
        """Whether all that a set filter says is in the ledger."""
        have = self._ledger.pieces(self._keys[one.name], self._data[one.name])
        return len(have) == len(self._pieces)

    def _over_the_set(self, one: Filter, kept: list[array[int]]) -> None:
        """Runs a set filter on these rows of each piece."""
        place = self.filters.index(one)
        before = [x for x in self.filters if not _set(x) or self.filters.index(x) < place]
        total = sum(map(len, kept))
        self._state_memory(one, total)
        self.progress.begin(one.name, total)
        passes = itertools.count(1)
        check: SetCheck = one.module.build(one.config, self._context)

        def records() -> Iterator[Record]:
            self.progress.begin(f"{one.name}, pass {next(passes)},", total)
            for piece in self._pieces:
                if rows := kept[piece.number]:
                    yield from self._records(piece, before, rows)
                    self.progress.done += len(rows)

        start = time.perf_counter()
        try:
            decisions = check(records)
            for piece in self._pieces:
                outcomes: list[Outcome | None] = [None] * (piece.stop - piece.start)
                for row in kept[piece.number]:
                    outcomes[row] = checked(next(decisions))
                now = time.perf_counter()
                self._write(one, piece, outcomes, now - start)
                start = now
            if next(decisions, None) is not None:
                raise RuntimeError(f"the filter {one.name} gave more decisions than records")
            self._note(one.name, list(getattr(check, "notes", [])))
        finally:
            if close := getattr(check, "close", None):
                close()

    def _state_memory(self, one: Filter, records: int) -> None:
        """Says what a set filter will hold, and refuses what the machine has not got."""
        estimate = getattr(one.module, "memory", None)
        if estimate is None:
            return
        needed = estimate(one.config, records)
        if needed > 100e6:
            self._say(
                f"  {one.name} will hold up to {needed / 1e6:,.0f} MB for {records:,} records"
            )
        free = _free_memory()
        if free is not None and needed > free:
            raise UserError(
                f"the filter {one.name} needs {needed / 1e9:.1f} GB for {records:,} records, and "
                f"{free / 1e9:.1f} GB are free"
            )


def _set(one: Filter) -> bool:
    return one.level == "set"


def _here(one: Filter) -> bool:
    """Whether a filter runs in this process: it waits for a teacher, or holds a model."""
    return one.needs("teacher") or one.needs("one_process")


def _free_memory() -> int | None:
    """Bytes that are to be had without swapping, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable")), None)
    return None if found is None else int(found) * 1024
