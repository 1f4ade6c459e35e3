"""What each filter took out of a data set: how many records and tokens, why, and of which sort."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from synth.core.record import Record

# Keys of a task's metadata that say how hard it is, the first that is there.
DIFFICULTY = ("difficulty", "level", "pass_rate", "grade")
_SORTS_MAX = 30  # sorts that are told apart; those met later count together
_OTHER = "(other)"


@dataclass
class FilterCount:
    """What one filter did.

    Attributes:
        name: What it is called in verdicts.
        seen: Records with a verdict of it that no filter before it dropped.
        dropped: Of these, the ones that it dropped.
        tagged: Of these, the ones that it said no of, or could not tell, and did not drop.
        alone: Records that it dropped and no other filter did: what comes back without it.
        tokens: Tokens of the records that it dropped.
        reasons: The kinds of its reasons among `dropped` and `tagged`.
        sources: The sources of the records that it dropped.
        difficulties: How hard their questions were said to be.
        seconds: Time that it took over all records, those dropped before it included.
    """

    name: str
    seen: int = 0
    dropped: int = 0
    tagged: int = 0
    alone: int = 0
    tokens: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    difficulties: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass
class Funnel:
    """How many records came in, how many each filter dropped and why, how many are left.

    A record counts as dropped by the first filter in the config's order that did not keep it. Set
    filters see only what the others kept, so what `alone` says comes back without another filter
    still has to pass them.

    Attributes:
        total: Records that came in, and `kept` what is left of them.
        tokens: Their tokens, and `tokens_kept` of those left; words where `unit` says so.
        unit: `tokens` as the student or the endpoint counted them, or `words`.
        sources: Records that came in by source, and `difficulties` by difficulty.
        sources_kept: What is left of them, and `difficulties_kept`.
        filters: In the config's order.
    """

    total: int = 0
    kept: int = 0
    tokens: int = 0
    tokens_kept: int = 0
    unit: str = "tokens"
    sources: Counter[str] = field(default_factory=Counter)
    sources_kept: Counter[str] = field(default_factory=Counter)
    difficulties: Counter[str] = field(default_factory=Counter)
    difficulties_kept: Counter[str] = field(default_factory=Counter)
    filters: list[FilterCount] = field(default_factory=list)

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
        reached, place = True, 0
        for verdict in record.verdicts:
            place = self._place(verdict.filter, place)
            count = self.filters[place - 1]
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
        made = record.generation
        known = (made.student_tokens or made.completion_tokens) if made else None
        if known is None and not self.total:
            self.unit = "words"
        if self.unit == "words" or known is None:
            return len(f"{record.reasoning or ''} {record.answer}".split())
        return known

    def _place(self, name: str, after: int) -> int:
        """The place behind a filter's count; a new one goes behind the filter that ran before it.

        So the filters stand in the config's order though the first records may lack some of them.
        """
        for place, count in enumerate(self.filters, 1):
            if count.name == name:
                return place
        self.filters.insert(after, FilterCount(name))
        return after + 1

    def to_dict(self) -> dict[str, Any]:
        """The funnel as JSON values; counters with the commonest first."""
        return _plain(self) | {"filters": [_plain(count) for count in self.filters]}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Funnel:
        """The funnel that `to_dict` gave."""
        filters = [FilterCount(**_counted(count)) for count in value["filters"]]
        return cls(**{**_counted(value), "filters": filters})


def difficulty_of(record: Record) -> str:
    """How hard a record's question is said to be, as text; shares in steps of a tenth."""
    for key in DIFFICULTY:
        value = record.task.metadata.get(key)
        if isinstance(value, float):
            return f"{value:.1f}"
        if isinstance(value, str | int):
            return str(value)[:40]
    return ""


def _sort(value: str, known: Counter[str]) -> str:
    return value if value in known or len(known) < _SORTS_MAX else _OTHER


def _plain(value: Any) -> dict[str, Any]:
    return {
        k: dict(v.most_common()) if isinstance(v, Counter) else v for k, v in vars(value).items()
    }


def _counted(value: dict[str, Any]) -> dict[str, Any]:
    return {k: Counter(v) if isinstance(v, dict) else v for k, v in value.items()}
