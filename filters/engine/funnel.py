"""What each filter took out of a data set: how many records and tokens, why, and of which sort."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from synth.core.record import Record

# Keys of a task's metadata that say how hard it is, the first that is there.
_DIFFICULTY = ("difficulty", "level", "pass_rate", "grade")
_SORTS_MAX = 30  # sorts that are told apart; those met later count together


@dataclass
class FilterCount:
    """What one filter did."""

    name: str  # what it is called in verdicts
    seen: int = 0  # records with a verdict of it that no filter before it dropped
    dropped: int = 0  # of these, the ones that it dropped
    tagged: int = 0  # of these, the ones that it said no of, or could not tell, and did not drop
    alone: int = 0  # records that it dropped and no other filter did: what comes back without it
    tokens: int = 0  # of the records that it dropped, and so are their sources and difficulties
    reasons: Counter[str] = field(default_factory=Counter)  # kinds, of `dropped` and `tagged`
    sources: Counter[str] = field(default_factory=Counter)
    difficulties: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0  # over all records, those dropped before it included


@dataclass
class Funnel:
    """How many records came in, how many each filter dropped and why, how many are left.

    A record counts as dropped by the first filter in the config's order that did not keep it. Set
    filters see only what the others kept, so what `alone` says comes back without another filter
    still has to pass them.
    """

    total: int = 0
    kept: int = 0
    tokens: int = 0
    tokens_kept: int = 0
    unit: str = "tokens"  # as the student or the endpoint counted them, or `words`
    sources: Counter[str] = field(default_factory=Counter)
    sources_kept: Counter[str] = field(default_factory=Counter)
    difficulties: Counter[str] = field(default_factory=Counter)
    difficulties_kept: Counter[str] = field(default_factory=Counter)
    filters: list[FilterCount] = field(default_factory=list)  # in the config's order

    def add(self, record: Record) -> None:
        """Counts one record by its verdicts."""
        drops = [verdict for verdict in record.verdicts if verdict.drops]
        size = self._size(record)
        source = _sort(record.task.source, self.sources)
        difficulty = _sort(difficulty_of(record), self.difficulties)
        self.total += 1
        self.tokens += size
        self.sources[source] += 1
        self.difficulties[difficulty] += 1
        if not drops:
            self.kept += 1
            self.tokens_kept += size
            self.sources_kept[source] += 1
            self.difficulties_kept[difficulty] += 1
        reached, index = True, -1
        for verdict in record.verdicts:
            index = self._index(verdict.filter, index + 1)
            count = self.filters[index]
            count.seconds += verdict.seconds
            count.seen += reached
            if not reached or verdict.keep:
                continue
            count.reasons[verdict.kind] += 1
            if not verdict.drops:
                count.tagged += 1
                continue
            reached = False
            count.dropped += 1
            count.alone += len(drops) == 1
            count.tokens += size
            count.sources[source] += 1
            count.difficulties[difficulty] += 1

    def _size(self, record: Record) -> int:
        """Tokens of a record; words from the first record on that nobody counted the tokens of."""
        generation = record.generation
        tokens = (generation.student_tokens or generation.completion_tokens) if generation else None
        if tokens is None and not self.total:
            self.unit = "words"
        if self.unit == "words" or tokens is None:
            return len(f"{record.reasoning or ''} {record.answer}".split())
        return tokens

    def _index(self, name: str, new: int) -> int:
        """The index of a filter's count; a new one goes behind the filter that ran before it.

        So the filters stand in the config's order though the first records may lack some of them.
        """
        for index, count in enumerate(self.filters):
            if count.name == name:
                return index
        self.filters.insert(new, FilterCount(name))
        return new

    def to_dict(self) -> dict[str, Any]:
        """The funnel as JSON values; counters with the commonest first."""
        return _plain(self) | {"filters": [_plain(count) for count in self.filters]}


def difficulty_of(record: Record) -> str:
    """How hard a record's question is said to be, as text; shares in steps of a tenth."""
    for key in _DIFFICULTY:
        value = record.task.metadata.get(key)
        if isinstance(value, float):
            return f"{value:.1f}"
        if isinstance(value, str | int):
            return str(value)[:40]
    return ""


def _sort(value: str, known: Counter[str]) -> str:
    return value if value in known or len(known) < _SORTS_MAX else "(other)"


def _plain(value: Any) -> dict[str, Any]:
    return {
        k: dict(v.most_common()) if isinstance(v, Counter) else v for k, v in vars(value).items()
    }
