"""The filters of a config, run in order, and what each of them took out."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from filters.contract import Check, Context
from synth import plugins
from synth.errors import DistillError, UserError
from synth.record import Record, Task, Verdict

# Records handed to the threads ahead of the one that is waited for.
_AHEAD_PER_WORKER = 8
_LEVELS = ("question", "trace", "set")
_CLIP = 120


@dataclass(frozen=True)
class FilterSpec:
    """A filter as a config names it.

    Attributes:
        name: Its file's name, or the dotted path of the user's own module.
        options: What its `Config` takes.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Stage:
    name: str
    level: str
    check: Check
    asks: bool = False

    def verdict(self, record: Record) -> Verdict:
        """The filter's verdict; a filter that raises costs this record and not the run."""
        start = time.perf_counter()
        try:
            keep, reason, score = self.check(record)
            score = None if score is None else float(score)
        except DistillError:  # a judge that cannot be asked at all ends the run, not this record
            raise
        except Exception as error:
            message = " ".join(str(error).split())[:_CLIP]
            keep, reason, score = False, f"filter failed: {type(error).__name__}: {message}", None
        return Verdict(self.name, bool(keep), reason, score, time.perf_counter() - start)


def build_chain(specs: Sequence[FilterSpec], context: Context) -> Chain:
    """The chain of these filters. A filter named again is called `NAME.2`, and so on.

    Raises:
        UserError: A filter is unknown, or its options are not what it takes.
    """
    stages: list[_Stage] = []
    met: Counter[str] = Counter()
    for spec in specs:
        module = plugins.load("filter", spec.name)
        level = getattr(module, "LEVEL", "trace")
        if level not in _LEVELS:
            raise UserError(f"filter {spec.name!r}: LEVEL is {level!r}, none of {_LEVELS}")
        try:
            config = module.Config(**spec.options)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg']}" for e in error.errors()
            )
            raise UserError(f"filter {spec.name!r}: {wrong}") from error
        met[spec.name] += 1
        name = spec.name if met[spec.name] == 1 else f"{spec.name}.{met[spec.name]}"
        asks = getattr(module, "ASKS_TEACHER", False)
        stages.append(_Stage(name, level, module.build(config, context), asks))
    return Chain(stages)


class Chain:
    """Filters in a config's order. Made by `build_chain`; a context manager.

    Attributes:
        names: What its filters are called in verdicts.
    """

    def __init__(self, stages: Sequence[_Stage]) -> None:
        self._stages = list(stages)
        self._order = {stage.name: place for place, stage in enumerate(stages)}
        self.names = list(self._order)

    def check_question(self, task: Task) -> list[Verdict]:
        """The verdicts of the question filters on a question that nobody has answered yet."""
        return self._run("question", Record(task.id, task, [], None, ""))

    def check_trace(self, record: Record) -> list[Verdict]:
        """The verdicts of the trace filters on a record; the record is left as it is.

        All of them run, so that it can be said what each would have dropped by itself; only one
        that asks a teacher is not asked about what a filter before it drops. Safe to call from
        several threads.
        """
        return self._run("trace", record)

    def apply(self, records: Iterable[Record], workers: int = 1) -> Iterator[Record]:
        """The same records in the same order, each with the verdicts of this chain.

        Question and trace filters run in threads, a bounded number of records ahead of the one
        that is yielded. Set filters follow in that order, on one thread, each on what every other
        filter before it kept; a record that was dropped by then has no verdict of theirs. Earlier
        verdicts of a record are replaced.
        """
        threads = ThreadPoolExecutor(max(1, workers), thread_name_prefix="filter")
        pending: deque[tuple[Record, Future[list[Verdict]]]] = deque()
        try:
            for record in records:
                pending.append((record, threads.submit(self._check_alone, record)))
                if len(pending) > _AHEAD_PER_WORKER * max(1, workers):
                    yield self._finish(*pending.popleft())
            while pending:
                yield self._finish(*pending.popleft())
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Ends what the filters hold, such as worker processes."""
        for stage in self._stages:
            close = getattr(stage.check, "close", None)
            if close is not None:
                close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, level: str, record: Record) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for stage in self._stages:
            if stage.level != level or (stage.asks and not all(v.keep for v in verdicts)):
                continue
            verdicts.append(stage.verdict(record))
        return verdicts

    def _check_alone(self, record: Record) -> list[Verdict]:
        return self.check_question(record.task) + self.check_trace(record)

    def _finish(self, record: Record, future: Future[list[Verdict]]) -> Record:
        verdicts = future.result()
        for stage in self._stages:
            if stage.level == "set" and all(verdict.keep for verdict in verdicts):
                verdicts.append(stage.verdict(record))
        record.verdicts = sorted(verdicts, key=lambda verdict: self._order[verdict.filter])
        return record


@dataclass
class FilterCount:
    """What one filter did.

    Attributes:
        name: What it is called in verdicts.
        seen: Records with a verdict of it that no filter before it dropped.
        dropped: Of these, the ones that it dropped.
        alone: Records that it dropped and no other filter did: what comes back without it.
        reasons: The kinds of its reasons among `dropped`.
        seconds: Time that it took over all records, those dropped before it included.
    """

    name: str
    seen: int = 0
    dropped: int = 0
    alone: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass
class Funnel:
    """How many records came in, how many each filter dropped and why, how many are left.

    A record counts as dropped by the first filter in the config's order that did not keep it. Set
    filters see only what the others kept, so what `alone` says comes back without another filter
    still has to pass them.
    """

    total: int = 0
    kept: int = 0
    filters: list[FilterCount] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Counts one record by its verdicts."""
        self.total += 1
        drops = [verdict for verdict in record.verdicts if not verdict.keep]
        self.kept += not drops
        reached, place = True, 0
        for verdict in record.verdicts:
            place = self._place(verdict.filter, place)
            count = self.filters[place - 1]
            count.seconds += verdict.seconds
            count.seen += reached
            if reached and not verdict.keep:
                reached = False
                count.dropped += 1
                count.alone += len(drops) == 1
                count.reasons[verdict.kind] += 1

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
        """The funnel as JSON values; reasons with the commonest first."""
        filters = [
            {**vars(count), "reasons": dict(count.reasons.most_common())} for count in self.filters
        ]
        return {"total": self.total, "kept": self.kept, "filters": filters}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Funnel:
        """The funnel that `to_dict` gave."""
        filters = [
            FilterCount(**{**count, "reasons": Counter(count["reasons"])})
            for count in value["filters"]
        ]
        return cls(value["total"], value["kept"], filters)
