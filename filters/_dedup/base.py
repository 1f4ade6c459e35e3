"""What the filters against duplicates share: what is compared, which one stays, its partner."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from filters._selection import length, verifies
from filters.base import Decision, FilterConfig
from synth.core.errors import UserError, nearest
from synth.core.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

On = Literal["question", "trace", "question_and_trace"]
_OWN = ("verified", "shortest", "longest", "first")


class DedupConfig(FilterConfig):
    """Options that all of them have."""

    keep: int = Field(1, ge=1, description="How many of a group of duplicates stay")
    best: list[str] = Field(
        ["verified"],
        description="Which stay, what counts most first: verified, shortest, longest, first, or a"
        " filter's name for its score (-NAME: the lowest is best); the data's order in the end",
    )
    index: Path | None = Field(
        None, description="Folder where runs note what they keep; what others kept counts here too"
    )


def parts(record: Record, on: On) -> list[str | None]:
    """The texts that are compared."""
    question: list[str | None] = [] if on == "trace" else [record.task.question]
    return question if on == "question" else [*question, record.reasoning, record.answer]


def text_of(record: Record, on: On) -> str:
    """The same as one text."""
    return "\n".join(part or "" for part in parts(record, on))


class RecordTable:
    """The records of a run in the data's order, behind those of an index, by number.

    What is held are ids and standing: about 60 bytes a record, and 8 for each word of `best`.
    """

    def __init__(self, best: Sequence[str]) -> None:
        self._best = best
        self._ids = bytearray()
        self._ends = array("q")
        self._standing = array("d")
        self._runs: list[tuple[int, str]] = []
        self._unmet = {by.removeprefix("-") for by in best if by not in _OWN}
        self._met: set[str] = set()
        self.saved = 0

    def __len__(self) -> int:
        return len(self._ends)

    def add_saved(self, run: str, id: str) -> None:
        """A record that another run kept. They all come before the first of this run."""
        if not self._runs or self._runs[-1][1] != run:
            self._runs.append((len(self), run))
        self._add(id)
        self._standing.extend([float("-inf")] * len(self._best))
        self.saved += 1

    def add(self, record: Record) -> None:
        """The next record of this run."""
        self._add(record.id)
        self._standing.extend(_standing(record, by) for by in self._best)
        if self._unmet:
            names = {verdict.filter for verdict in record.verdicts}
            self._unmet -= names
            self._met |= names

    def _add(self, id: str) -> None:
        self._ids += id.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._ids))

    def id(self, number: int) -> str:
        """The id of a record."""
        start = self._ends[number - 1] if number else 0
        return self._ids[start : self._ends[number]].decode("utf-8", "surrogatepass")

    def run(self, number: int) -> str | None:
        """The run that kept a record; None for one of this run."""
        if number >= self.saved:
            return None
        return self._runs[bisect_right(self._runs, number, key=lambda entry: entry[0]) - 1][1]

    def in_order(self, among: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """The numbers, the best record first; where `best` does not decide the data's order does.

        Args:
            among: Which to give; all by default.

        Raises:
            UserError: No record has a verdict of a filter that `best` names.
        """
        import numpy as np

        if self._unmet and len(self) > self.saved:
            name = min(self._unmet)
            hint = nearest(name, {*self._met, *_OWN})
            raise UserError(f"best: no filter before this one is called {name!r}{hint}")

        table = np.frombuffer(self._standing, np.float64).reshape(len(self), len(self._best))
        numbers = np.arange(len(self)) if among is None else np.flatnonzero(among)
        if self._best:
            numbers = numbers[np.lexsort(table[numbers].T[::-1])]
        return numbers


def _standing(record: Record, by: str) -> float:
    """What one word of `best` says of a record: less is better."""
    if by == "first":
        return 0.0
    if by == "verified":
        said = [verdict.keep for verdict in record.verdicts if verifies(verdict.filter)]
        return 2.0 if False in said else 0.0 if True in said else 1.0
    if by in ("shortest", "longest"):
        return float(length(record) if by == "shortest" else -length(record))
    name = by.removeprefix("-")
    score = next((v.score for v in record.verdicts if v.filter == name), None)
    # Not a number would make an order that depends on chance.
    if score is None or score != score:
        return float("inf")
    return score if by.startswith("-") else -score


class DedupResult(NamedTuple):
    """What became of each record, by number.

    Attributes:
        dropped: Whether it is a duplicate of what stays.
        partner: The nearest record that it was compared with; -1 where there was none.
        similarity: With that one.
        stays: The record that stands for it where chains fall as a whole; else -1.
    """

    dropped: NDArray[np.bool_]
    partner: NDArray[np.int64]
    similarity: NDArray[np.float64]
    stays: NDArray[np.int64]


Neighbours = Callable[[int], Iterable[tuple[int, float]]]


def choose(
    order: Sequence[int] | NDArray[np.int64],
    roll: RecordTable,
    neighbours: Neighbours,
    admit: Callable[[int], None],
    threshold: float,
    keep: int = 1,
    chains: bool = False,
) -> DedupResult:
    """Goes through the records, the best first, and drops what is near to `keep` that stay.

    So nothing is dropped without a partner that stays and is as near as the threshold, and a row
    of small changes does not fall as a whole. With `chains` it does: whatever is linked by near
    pairs is one group, and its best `keep` stay.

    Args:
        order: Numbers, best first; what an index brought comes first and is never dropped.
        roll: The records.
        neighbours: Candidates among the admitted with their similarity, best first.
        admit: Makes a record a candidate for later ones.
        threshold: Similarity from which two are the same.
        keep: How many of a group stay.
        chains: Whether neighbours of neighbours belong together.
    """
    import numpy as np

    count = len(roll)
    choice = DedupResult(
        np.zeros(count, bool),
        np.full(count, -1, np.int64),
        np.zeros(count),
        np.full(count if chains else 0, -1, np.int64),
    )
    dropped, partner, similarity, stays = choice
    group: dict[int, int] = {}

    def root(number: int) -> int:
        while (above := group.get(number, number)) != number:
            group[number] = group.get(above, above)
            number = above
        return number

    def note(one: int, other: int, found: float) -> None:
        if partner[one] < 0 or found > similarity[one]:
            partner[one], similarity[one] = other, found

    for number in map(int, order):
        near = 0
        for other, found in neighbours(number):
            note(number, other, found)
            if found >= threshold:
                near += 1
                if chains:
                    note(other, number, found)
                    group[root(number)] = root(other)
        dropped[number] = near >= keep and number >= roll.saved and not chains
        if not dropped[number]:
            admit(number)
    if chains:
        kept: dict[int, list[int]] = {}
        for number in map(int, order):
            mine = kept.setdefault(root(number), [])
            if len(mine) < keep or number < roll.saved:
                mine.append(number)
            else:
                dropped[number], stays[number] = True, mine[0]
    return choice


def decisions(
    roll: RecordTable, choice: DedupResult, kind: str, measure: str, threshold: float
) -> Iterator[Decision]:
    """The decision on each record of this run, in the data's order.

    Args:
        roll: The records.
        choice: What became of them.
        kind: The kind of the reason, as `near duplicate`.
        measure: What the similarity is called in the evidence, as `jaccard`.
        threshold: Similarity from which two are the same.
    """
    for number in range(roll.saved, len(roll)):
        other = int(choice.partner[number])
        found = float(choice.similarity[number])
        if other < 0:
            yield Decision(True, "", 0.0, threshold)
            continue
        evidence: dict[str, Any] = {"partner": roll.id(other), measure: round(found, 4)}
        if (run := roll.run(other)) is not None:
            evidence["run"] = run
        if not choice.dropped[number]:
            yield Decision(True, "", found, threshold, evidence)
            continue
        if len(choice.stays):
            evidence["stays"] = roll.id(int(choice.stays[number]))
        reason = f"{kind}: of {roll.id(other)} ({measure} {found:.3f})"
        yield Decision(False, reason, found, threshold, evidence)
