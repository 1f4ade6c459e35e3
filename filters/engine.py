"""The filters of a config over a data set: what was judged before is not judged again.

First the filters that need nothing but the record, in several processes; then those that wait for
a teacher or hold a model, in this one, on what is not dropped so far; then the set filters in the
config's order, each on what all the others before it keep. Every outcome goes to the ledger as it
comes, so a kill costs the pieces that were under way. What each record's verdicts are is then read
from the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filters.chain import Filter, FilterSpec, Outcome, checked, load_filters
from filters.contract import Context, SetCheck
from filters.ledger import Ledger, pack
from filters.pieces import Piece, pieces_of, read_pieces
from filters.pool import Job, judge_pieces
from synth.errors import UserError
from synth.record import Record, digest

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


class Engine:
    """Filters over one split of a data set.

    Args:
        folder: The data set, as `synth.io.writing` writes it.
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
        ledger: Ledger,
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
        for one in filter(_set, self.filters):
            self._over_the_set(one)

    def records(self) -> Iterator[Record]:
        """Every record in the data's order with its verdicts, in the config's order."""
        return self._joined(self.filters)

    def notes(self) -> dict[str, list[str]]:
        """What filters said of themselves, such as what they could not check."""
        said = {
            one.name: self._ledger.notes(self._keys[one.name], self._data[one.name])
            for one in self.filters
        }
        return {name: notes for name, notes in said.items() if notes}

    def _manner(self, one: Filter) -> Any:
        return [self._keys[one.name], one.config.model_dump(mode="json")]

    def _joined(self, filters: list[Filter]) -> Iterator[Record]:
        for piece, records in read_pieces(self._pieces):
            columns = [self._outcomes(one, piece) for one in filters]
            for row, record in enumerate(records):
                record.verdicts = []
                for one, (outcomes, seconds) in zip(filters, columns, strict=True):
                    if (outcome := outcomes[row]) is not None:
                        record.verdicts.append(one.verdict(outcome, seconds))
                yield record

    def _outcomes(self, one: Filter, piece: Piece) -> tuple[list[Outcome | None], float]:
        """A filter's outcomes for a piece, and the seconds that each of them took on average."""
        found = self._ledger.read(self._keys[one.name], self._data[one.name], piece.number)
        if found is None:
            return [None] * (piece.stop - piece.start), 0.0
        judged = sum(outcome is not None for outcome in found[0])
        return found[0], found[1] / max(1, judged)

    def _write(self, one: Filter, piece: Piece, outcomes: list[Outcome | None], s: float) -> None:
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
            joined = self._joined(before)
            for piece in self._pieces:
                records = [next(joined) for _ in range(piece.stop - piece.start)]
                outcomes, seconds = self._outcomes(one, piece)
                rows = [
                    row
                    for row, record in enumerate(records)
                    if outcomes[row] is None and record.rejected_by is None
                ]
                if rows:
                    if check is None:
                        check = one.module.build(one.config, self._context)
                    start = time.perf_counter()
                    for row, outcome in zip(
                        rows, self._all(one, check, records, rows), strict=True
                    ):
                        outcomes[row] = outcome
                    # Of the piece, not of each record: those that wait for a teacher wait together.
                    self._write(one, piece, outcomes, seconds + time.perf_counter() - start)
                self.progress.done += len(records)
        finally:
            if close := getattr(check, "close", None):
                close()
        if check is not None:
            self._note(one.name, list(getattr(check, "notes", [])))

    def _all(
        self, one: Filter, check: Any, records: list[Record], rows: list[int]
    ) -> list[Outcome]:
        if not one.has("ASKS_TEACHER"):
            return [one.judge(check, records[row]) for row in rows]
        with ThreadPoolExecutor(self._threads, thread_name_prefix="filter") as pool:
            return list(pool.map(lambda row: one.judge(check, records[row]), rows))

    def _over_the_set(self, one: Filter) -> None:
        """Runs a set filter anew unless all of it is in the ledger."""
        have = self._ledger.pieces(self._keys[one.name], self._data[one.name])
        if len(have) == len(self._pieces):
            return
        place = self.filters.index(one)
        before = [x for x in self.filters if not _set(x) or self.filters.index(x) < place]
        total = sum(sum(self._passing(piece, before)) for piece in self._pieces)
        self._state_memory(one, total)
        self.progress.begin(one.name, total)
        check: SetCheck = one.module.build(one.config, self._context)
        start = time.perf_counter()
        try:
            decisions = check(
                lambda: (record for record in self._joined(before) if record.rejected_by is None)
            )
            for piece in self._pieces:
                outcomes: list[Outcome | None] = [
                    checked(next(decisions)) if passes else None
                    for passes in self._passing(piece, before)
                ]
                now = time.perf_counter()
                self._write(one, piece, outcomes, now - start)
                start = now
                self.progress.done += sum(outcome is not None for outcome in outcomes)
            if next(decisions, None) is not None:
                raise RuntimeError(f"the filter {one.name} gave more decisions than records")
            self._note(one.name, list(getattr(check, "notes", [])))
        finally:
            if close := getattr(check, "close", None):
                close()

    def _passing(self, piece: Piece, filters: list[Filter]) -> list[bool]:
        """Which records of a piece these filters keep; read from the ledger alone."""
        passing = [True] * (piece.stop - piece.start)
        for one in filters:
            for row, outcome in enumerate(self._outcomes(one, piece)[0]):
                if outcome is not None and passing[row]:
                    passing[row] = not one.verdict(outcome).drops
        return passing

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
    return one.has("ASKS_TEACHER") or one.has("ONE_PROCESS")


def _free_memory() -> int | None:
    """Bytes that are to be had without swapping, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable")), None)
    return None if found is None else int(found) * 1024
