"""Statistics of the traces of one split, for the report."""

from __future__ import annotations

import itertools
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
    """What is known of the traces of one split, gathered in one pass while they stream by."""

    rows: int = 0
    tokens: Counter[int] = field(default_factory=Counter)  # traces by completion tokens, if known
    prompt_tokens: int = 0  # of the traces that say it
    cost_usd: float = 0.0  # of the `priced` ones
    priced: int = 0
    finish: Counter[str] = field(default_factory=Counter)  # traces by finish reason
    models: Counter[str] = field(default_factory=Counter)  # by the name that the endpoint gave
    teachers: Counter[str] = field(default_factory=Counter)
    shown: list[Record] = field(default_factory=list)  # in the report

    def add(self, record: Record) -> None:
        """Counts one trace."""
        self.rows += 1
        if (generation := record.generation) is None:
            return
        self.finish[generation.finish_reason] += 1
        self.models[generation.model] += 1
        self.teachers[generation.teacher] += 1
        self.prompt_tokens += generation.prompt_tokens or 0
        if generation.completion_tokens is not None:
            self.tokens[generation.completion_tokens] += 1
        if generation.cost_usd is not None:
            self.cost_usd += generation.cost_usd
            self.priced += 1

    def __add__(self, other: TraceStats) -> TraceStats:
        return TraceStats(
            **{name: getattr(self, name) + getattr(other, name) for name in vars(self)}
        )

    @property
    def known_tokens(self) -> int:
        """Completion tokens of the traces that say it."""
        return sum(value * count for value, count in self.tokens.items())

    @property
    def completion_tokens(self) -> int | None:
        """Tokens of all traces, or None where not every trace says its own."""
        return self.known_tokens if self.tokens.total() == self.rows else None

    @property
    def cost(self) -> float | None:
        """Dollars for all traces, or None where not every one has a price."""
        return self.cost_usd if self.rows and self.priced == self.rows else None

    @property
    def mean(self) -> float | None:
        """Mean number of completion tokens of the traces that say it."""
        return self.known_tokens / self.tokens.total() if self.tokens else None

    def quantile(self, share: float) -> int | None:
        """Returns the number of tokens that so many of the traces do not exceed."""
        rank, values = max(1, math.ceil(share * self.tokens.total())), sorted(self.tokens)
        counts = itertools.accumulate(self.tokens[value] for value in values)
        return next((v for v, count in zip(values, counts, strict=True) if count >= rank), None)


def collect_stats(stage: Path, split: str, manifest: Mapping[str, Any]) -> TraceStats:
    """Returns the statistics of a split, read in one pass."""
    stats = TraceStats()

    def counted() -> Iterator[Record]:
        for record in read_split(stage, split):
            stats.add(record)
            yield record

    rows = manifest.get("rows", {}).get(split, 0)
    stats.shown = spread(counted(), rows, _sort_of, TRACES_SHOWN)
    return stats


def _sort_of(record: Record) -> Hashable:
    """Returns that in which traces differ that are worth showing side by side."""
    if verdict := record.rejected_by:
        return verdict.filter, verdict.kind
    return record.task.source, record.generation and record.generation.teacher


def spread(
    records: Iterable[Record], rows: int, sort_of: Callable[[Record], Hashable], limit: int
) -> list[Record]:
    """Returns the first record of each sort, then others from all over the data, never by lot.

    Reads all records, holds few of them.
    """
    first: dict[Hashable, Record] = {}
    others: list[Record] = []
    step = max(1, rows // limit)
    for index, record in enumerate(records):
        if len(first) < limit and (sort := sort_of(record)) not in first:
            first[sort] = record
        elif index % step == 0 and len(others) < limit:
            others.append(record)
    return [*first.values(), *others][:limit]
