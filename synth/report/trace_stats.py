"""What a report says of the traces of one split, gathered in one pass while they stream by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synth.core.dataset import read_split
from synth.core.record import Record

TRACES_SHOWN = 12


@dataclass
class TraceStats:
    """What is known of the traces of one split, gathered in one pass while they stream by.

    Attributes:
        tokens: How many traces have which number of completion tokens; those unknown are not in it.
        prompt_tokens: Of the traces that say it, as is `cost_usd` of the `priced` ones.
        finish: Finish reasons; `models` counts the names that the endpoints gave.
        teachers: Traces of each teacher.
        shown: The traces that the report shows.
    """

    rows: int = 0
    tokens: Counter[int] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cost_usd: float = 0.0
    priced: int = 0
    finish: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    teachers: Counter[str] = field(default_factory=Counter)
    shown: list[Record] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Counts one trace."""
        self.rows += 1
        if (made := record.generation) is None:
            return
        self.finish[made.finish_reason] += 1
        self.models[made.model] += 1
        self.teachers[made.teacher] += 1
        self.prompt_tokens += made.prompt_tokens or 0
        if made.completion_tokens is not None:
            self.tokens[made.completion_tokens] += 1
        if made.cost_usd is not None:
            self.cost_usd += made.cost_usd
            self.priced += 1

    def __add__(self, other: TraceStats) -> TraceStats:
        return TraceStats(
            **{name: getattr(self, name) + getattr(other, name) for name in vars(self)}
        )

    @property
    def completion_tokens(self) -> int | None:
        """Tokens of all traces, or None where not every trace says its own."""
        whole = self.tokens.total() == self.rows
        return sum(value * count for value, count in self.tokens.items()) if whole else None

    @property
    def cost(self) -> float | None:
        """Dollars for all traces, or None where not every one has a price."""
        return self.cost_usd if self.rows and self.priced == self.rows else None

    @property
    def mean(self) -> float | None:
        """Mean number of completion tokens of the traces that say it."""
        total = self.tokens.total()
        return sum(value * count for value, count in self.tokens.items()) / total if total else None

    def quantile(self, share: float) -> int | None:
        """The number of tokens that so many of the traces do not exceed."""
        wanted, seen = max(1, math.ceil(share * self.tokens.total())), 0
        for value in sorted(self.tokens):
            seen += self.tokens[value]
            if seen >= wanted:
                return value
        return None


def collect_stats(place: Path, split: str, manifest: Mapping[str, Any] | None) -> TraceStats:
    """Returns the statistics of a split, read in one pass."""
    pile = TraceStats()
    rows = (manifest or {}).get("rows", {}).get(split, 0)

    def counted() -> Iterator[Record]:
        for record in read_split(place, split):
            pile.add(record)
            yield record

    pile.shown = spread(counted(), rows, _sort_of, TRACES_SHOWN)
    return pile


def _sort_of(record: Record) -> Hashable:
    """Traces that differ in this are worth showing side by side."""
    if verdict := record.rejected_by:
        return verdict.filter, verdict.kind
    return record.task.source, record.generation and record.generation.teacher


def spread(
    records: Iterable[Record], rows: int, sort_of: Callable[[Record], Hashable], most: int
) -> list[Record]:
    """The first record of each sort, then others from all over the data: the same ones every time.

    Reads all records, holds few of them.
    """
    first: dict[Hashable, Record] = {}
    others: list[Record] = []
    step = max(1, rows // most)
    for index, record in enumerate(records):
        if len(first) < most and (sort := sort_of(record)) not in first:
            first[sort] = record
        elif index % step == 0 and len(others) < most:
            others.append(record)
    return [*first.values(), *others][:most]
