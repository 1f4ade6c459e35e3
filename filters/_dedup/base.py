"""Base of the deduplication filters: options, record table, selection of survivors, decisions."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from filters._selection import sort_key
from filters.base import Decision, FilterConfig
from synth.core.errors import UserError, nearest
from synth.core.record import Record
from synth.core.text.question_text import nfkc

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

On = Literal["question", "trace", "question_and_trace"]
_RANKS = ("verified", "shortest", "longest", "first")
# Bands of a signature, the part of the pairs at the threshold that they shall propose, and the
# most rows of a band: more would save few comparisons and cost as much in hashing.
_BANDS, _RECALL, _MAX_ROWS = 24, 0.993, 7


class DedupConfig(FilterConfig):
    """Options that every deduplication filter has."""

    keep: int = Field(1, ge=1, description="How many of a group of duplicates stay")
    best: list[str] = Field(
        ["verified"],
        description="Which stay, what counts most first: verified, shortest, longest, first, or a"
        " filter's name for its score (-NAME: the lowest is best); the data's order in the end",
    )
    index: Path | None = Field(
        None, description="Folder where runs note what they keep; what others kept counts here too"
    )


class SimilarityConfig(DedupConfig):
    """Options of the filters that compare by a similarity, within a question or over all."""

    on: On = "trace"
    per_question: bool | None = Field(
        None,
        description="Compare only the traces of the same question; by default so with on: trace",
    )

    @model_validator(mode="after")
    def _check_per_question(self) -> Self:
        if self.on == "question" and self.per_question:
            raise ValueError("on: question compares different questions: leave out per_question")
        return self

    @property
    def within_question(self) -> bool:
        """Whether only traces of one question are compared."""
        return self.on == "trace" if self.per_question is None else self.per_question


def parts(record: Record, on: On) -> list[str | None]:
    """Return the texts that are compared."""
    question: list[str | None] = [] if on == "trace" else [record.task.question]
    return question if on == "question" else [*question, record.reasoning, record.answer]


def text_of(record: Record, on: On) -> str:
    """Return the texts that are compared as one text."""
    return "\n".join(part or "" for part in parts(record, on))


def folded(text: str) -> str:
    """Return the text without case and width (NFKC, then case folding); linear in time.

    >>> folded("ＡB")
    'ab'
    """
    return text.lower() if text.isascii() else nfkc(text).casefold()


class Banding(NamedTuple):
    """How a signature is cut: two sets are candidates where all rows of one band agree."""

    bands: int
    rows: int

    def chance(self, jaccard: float) -> float:
        """Return the chance that a pair of this Jaccard is a candidate."""
        return 1.0 - (1.0 - jaccard**self.rows) ** self.bands


def banding(threshold: float) -> Banding:
    """Return as many rows as leave a pair at the threshold a chance of 0.993 to be a candidate.

    At 0.8 these are 7 rows with a chance of 0.996; at 0.85 it is then 0.9999.
    """
    bandings = [Banding(_BANDS, rows) for rows in range(_MAX_ROWS, 0, -1)]
    return next((cut for cut in bandings if cut.chance(threshold) >= _RECALL), bandings[-1])


class RecordTable:
    """The records of a run in the data's order, behind those of an index, by row number.

    It holds ids and sort keys: about 60 bytes a record, and 8 for each word of `best`. The first
    `indexed` rows are those of an index.
    """

    def __init__(self, best: Sequence[str]) -> None:
        self._best = best
        self._ids = bytearray()
        self._ends = array("q")
        self._sort_keys = array("d")
        self._runs: list[tuple[int, str]] = []
        self._missing_filters = {word.removeprefix("-") for word in best if word not in _RANKS}
        self._seen_filters: set[str] = set()
        self.indexed = 0

    def __len__(self) -> int:
        return len(self._ends)

    def add_indexed(self, run: str, id: str) -> None:
        """Add a record that another run kept. All of them come before the first of this run."""
        if not self._runs or self._runs[-1][1] != run:
            self._runs.append((len(self), run))
        self._add(id)
        self._sort_keys.extend([float("-inf")] * len(self._best))
        self.indexed += 1

    def add(self, record: Record) -> None:
        """Add the next record of this run."""
        self._add(record.id)
        self._sort_keys.extend(
            0.0 if word == "first" else sort_key(record, word) for word in self._best
        )
        if self._missing_filters:
            names = {verdict.filter for verdict in record.verdicts}
            self._missing_filters -= names
            self._seen_filters |= names

    def _add(self, id: str) -> None:
        self._ids += id.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._ids))

    def id(self, row: int) -> str:
        """Return the id of a record."""
        start = self._ends[row - 1] if row else 0
        return self._ids[start : self._ends[row]].decode("utf-8", "surrogatepass")

    def run(self, row: int) -> str | None:
        """Return the run that kept a record; None for a record of this run."""
        if row >= self.indexed:
            return None
        return self._runs[bisect_right(self._runs, row, key=lambda entry: entry[0]) - 1][1]

    def ranked(self, among: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Return the numbers of all rows or some, the best first; ties stand in the data's order.

        Raises:
            UserError: No record has a verdict of a filter that `best` names.
        """
        import numpy as np

        if self._missing_filters and len(self) > self.indexed:
            name = min(self._missing_filters)
            hint = nearest(name, {*self._seen_filters, *_RANKS})
            raise UserError(f"best: no filter before this one is called {name!r}{hint}")
        table = np.frombuffer(self._sort_keys, np.float64).reshape(len(self), len(self._best))
        rows = np.arange(len(self)) if among is None else np.flatnonzero(among)
        if self._best:
            rows = rows[np.lexsort(table[rows].T[::-1])]
        return rows


class DedupResult(NamedTuple):
    """What became of each record, by row number; -1 stands for no row."""

    dropped: NDArray[np.bool_]  # whether it is a duplicate of one that stays
    partner: NDArray[np.int64]  # the nearest row that it was compared with
    similarity: NDArray[np.float64]  # with the partner
    representative: NDArray[np.int64]  # what stays for its group, where chains fall as a whole

    def kept_rows(self, table: RecordTable) -> list[int]:
        """Return the rows of this run that stay."""
        return [row for row in range(table.indexed, len(table)) if not self.dropped[row]]


Neighbours = Callable[[int], Iterable[tuple[int, float]]]


def select_survivors(
    order: Sequence[int] | NDArray[np.int64],
    table: RecordTable,
    neighbours: Neighbours,
    admit: Callable[[int], None],
    threshold: float,
    keep: int = 1,
    chains: bool = False,
) -> DedupResult:
    """Go through the records, the best first, and drop what is near to `keep` that stay.

    So nothing is dropped without a partner that stays and is as near as the threshold, and a row
    of small changes does not fall as a whole. With `chains` it does: whatever is linked by near
    pairs is one group, and its best `keep` stay.

    Args:
        order: Row numbers, best first; what an index brought comes first and is never dropped.
        table: The records.
        neighbours: Returns candidates among the admitted with their similarity, best first.
        admit: Makes a record a candidate for later ones.
        threshold: Similarity from which two are near.
        keep: How many of a group stay.
        chains: Whether neighbours of neighbours belong together.
    """
    import numpy as np

    count = len(table)
    result = DedupResult(
        np.zeros(count, bool),
        np.full(count, -1, np.int64),
        np.zeros(count),
        np.full(count if chains else 0, -1, np.int64),
    )
    dropped, partner, best_similarity, representative = result
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while (above := parent.get(row, row)) != row:
            parent[row] = parent.get(above, above)
            row = above
        return row

    def note(row: int, neighbour: int, similarity: float) -> None:
        if partner[row] < 0 or similarity > best_similarity[row]:
            partner[row], best_similarity[row] = neighbour, similarity

    for row in map(int, order):
        near = 0
        for neighbour, similarity in neighbours(row):
            note(row, neighbour, similarity)
            if similarity >= threshold:
                near += 1
                if chains:
                    note(neighbour, row, similarity)
                    parent[root(row)] = root(neighbour)
        dropped[row] = near >= keep and row >= table.indexed and not chains
        if not dropped[row]:
            admit(row)
    if chains:
        groups: dict[int, list[int]] = {}
        for row in map(int, order):
            kept = groups.setdefault(root(row), [])
            if len(kept) < keep or row < table.indexed:
                kept.append(row)
            else:
                dropped[row], representative[row] = True, kept[0]
    return result


def decisions(
    table: RecordTable, result: DedupResult, kind: str, measure: str, threshold: float
) -> Iterator[Decision]:
    """Yield the decision on each record of this run, in the data's order.

    Reasons are of the kind `kind` (`near duplicate`); evidence calls the similarity `measure`.
    """
    for row in range(table.indexed, len(table)):
        partner, similarity = int(result.partner[row]), float(result.similarity[row])
        if partner < 0:
            yield Decision(True, "", 0.0, threshold)
            continue
        name, dropped = table.id(partner), bool(result.dropped[row])
        evidence: dict[str, Any] = {"partner": name, measure: round(similarity, 4)}
        if (run := table.run(partner)) is not None:
            evidence["run"] = run
        if dropped and len(result.representative):
            evidence["stays"] = table.id(int(result.representative[row]))
        reason = f"{kind}: of {name} ({measure} {similarity:.3f})" if dropped else ""
        yield Decision(not dropped, reason, similarity, threshold, evidence)
