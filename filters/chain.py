"""The filters of a config: what each is, what it says of a record, and all of them on one."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self, cast

from pydantic import ValidationError

from filters.contract import Check, Context, Decision, Figures, FilterConfig, bounds, decide
from synth.core import plugins
from synth.core.errors import DistillError, UserError
from synth.core.record import Record, Task, Verdict, canonical_json, digest

_LEVELS = ("question", "trace", "set")
_CLIP = 120
_AHEAD_PER_THREAD = 8
_EVIDENCE_MAX = 20_000  # characters of JSON; a filter that gives more gives none
_MANNERS = {"action", "cannot_tell"}  # options that say what follows, and change no judgement

Outcome = Decision | Figures


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
class Filter:
    """A filter of a config with its checked options; `name` is what verdicts call it."""

    name: str
    module: ModuleType
    config: FilterConfig

    @property
    def level(self) -> str:
        """`question`, `trace` or `set`."""
        return str(getattr(self.module, "LEVEL", "trace"))

    @functools.cached_property
    def version(self) -> int:
        """Of its code."""
        return int(getattr(self.module, "VERSION", 1))

    @functools.cached_property
    def measures(self) -> Mapping[str, str | tuple[str, str]]:
        """Its figures, where it only measures."""
        return cast("Mapping[str, Any]", getattr(self.module, "MEASURES", {}))

    @property
    def limit(self) -> float | None:
        """Seconds within which it surely ends over one record, where it says so."""
        own = getattr(self.module, "limit", None)
        if own is not None:
            return float(own(self.config))
        return sum(part.limit or 0.0 for part in self.parts()) or None

    def has(self, flag: str) -> bool:
        """Whether its module says so of itself, or a filter within it does."""
        return bool(getattr(self.module, flag, False)) or any(p.has(flag) for p in self.parts())

    def parts(self) -> list[Filter]:
        """The filters within it, where it is made of others."""
        own = getattr(self.module, "made_of", None)
        inside: list[tuple[str, dict[str, Any]]] = own(self.config) if own else []
        return load_filters([FilterSpec(name, options) for name, options in inside])

    def fingerprint(self, **around: Any) -> str:
        """Names its judgement of a record: equal fingerprints judge alike.

        What only follows from a judgement (`action`, the bounds of figures) is left out, so it can
        be changed without judging again.

        Args:
            around: What else the judgement depends on, as JSON values.
        """
        options = self.config.model_dump(mode="json")
        for name in _MANNERS | bounds(self.measures):
            options.pop(name, None)
        code: Any = self.version
        if "." in self.module.__name__.removeprefix("filters."):  # the user's own: it may change
            code = hashlib.sha256(Path(str(self.module.__file__)).read_bytes()).hexdigest()
        parts = [part.fingerprint() for part in self.parts()]
        return digest([self.module.__name__, code, options, parts, around])

    def judge(self, check: Check, record: Record) -> Outcome:
        """What the filter says of a record; one that raises costs this record and not the run."""
        try:
            return checked(check(record))
        except DistillError:  # a judge that cannot be asked at all ends the run, not this record
            raise
        except (Exception, RecursionError) as error:
            return failed(error)

    def verdict(self, outcome: Outcome, seconds: float = 0.0) -> Verdict:
        """What follows from an outcome by the config's bounds and action."""
        keep, reason, score, threshold, evidence = self._decision(outcome)
        return Verdict(
            filter=self.name,
            keep=keep,
            reason=reason,
            score=score,
            threshold=threshold,
            evidence=canonical_json(evidence) if evidence else None,
            version=self.version,
            drops=self._dropped(keep),
            seconds=seconds,
        )

    def drops(self, outcome: Outcome) -> bool:
        """Whether its verdict drops the record."""
        return self._dropped(self._decision(outcome).keep)

    def _decision(self, outcome: Outcome) -> Decision:
        if isinstance(outcome, Figures):
            return decide(outcome, self.config, self.measures)
        return outcome

    def _dropped(self, keep: bool | None) -> bool:
        action = (self.config.cannot_tell if keep is None else None) or self.config.action
        return not keep and action == "drop"


def checked(outcome: Any) -> Outcome:
    """An outcome in the types that the ledger holds.

    Raises:
        TypeError: It is no outcome.
    """
    if isinstance(outcome, Figures):
        values = {k: None if v is None else float(v) for k, v in outcome.values.items()}
        return Figures(values, _evidence(outcome.evidence))
    if not isinstance(outcome, Decision):
        raise TypeError(f"it gave {type(outcome).__name__}, no Decision")
    keep, reason, score, threshold, evidence = outcome
    return Decision(
        None if keep is None else bool(keep),
        str(reason),
        None if score is None else float(score),
        None if threshold is None else float(threshold),
        _evidence(evidence),
    )


def _evidence(value: Any) -> Mapping[str, Any] | None:
    if not value:
        return None
    text = json.dumps(value, ensure_ascii=True, default=str)
    if len(text) > _EVIDENCE_MAX:
        return {"too long": len(text)}
    return cast("dict[str, Any]", json.loads(text))


def failed(error: BaseException | str) -> Decision:
    """The outcome of a filter that failed on a record."""
    if not isinstance(error, str):
        error = f"{type(error).__name__}: {' '.join(str(error).split())[:_CLIP]}"
    return Decision(None, f"filter failed: {error}")


def load_filters(specs: Sequence[FilterSpec]) -> list[Filter]:
    """These filters without those that are off. One named again is called `NAME.2`, and so on.

    Raises:
        UserError: A filter is unknown, or its options are not what it takes.
    """
    loaded: list[Filter] = []
    met: Counter[str] = Counter()
    for spec in specs:
        module = plugins.load("filter", spec.name)
        if not issubclass(module.Config, FilterConfig):
            raise UserError(f"filter {spec.name!r}: its Config is no FilterConfig")
        try:
            config = module.Config(**spec.options)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg']}" for e in error.errors()
            )
            raise UserError(f"filter {spec.name!r}: {wrong}") from error
        met[spec.name] += 1
        name = spec.name if met[spec.name] == 1 else f"{spec.name}.{met[spec.name]}"
        made = Filter(name, module, config)
        if made.level not in _LEVELS:
            raise UserError(f"filter {spec.name!r}: LEVEL is {made.level!r}, none of {_LEVELS}")
        if config.action != "off":
            loaded.append(made)
    return loaded


def build_chain(specs: Sequence[FilterSpec], context: Context) -> Chain:
    """The chain of these filters; see `load_filters` and `Chain`."""
    return Chain(load_filters(specs), context)


class Chain:
    """Filters of the question and the trace level, ready to judge. A context manager.

    Args:
        filters: In the config's order; set filters among them are left out.
        context: What they are handed.

    Attributes:
        checks: Each filter with its check.
    """

    def __init__(self, filters: Sequence[Filter], context: Context) -> None:
        alone = [one for one in filters if one.level != "set"]
        self.checks: list[tuple[Filter, Check]] = [
            (one, one.module.build(one.config, context)) for one in alone
        ]

    @property
    def notes(self) -> dict[str, list[str]]:
        """What filters have to say of themselves, such as what they could not check."""
        notes = ((one.name, getattr(check, "notes", [])) for one, check in self.checks)
        return {name: list(said) for name, said in notes if said}

    def check_question(self, task: Task) -> list[Verdict]:
        """The verdicts of the question filters on a question that nobody has answered yet."""
        return self._verdicts("question", Record(task.id, task, [], None, ""))

    def check_trace(self, record: Record) -> list[Verdict]:
        """The verdicts of the trace filters on a record; the record is left as it is.

        All of them run, so that it can be said what each would have dropped by itself; only one
        that asks a teacher is not asked about what a filter before it drops. Safe to call from
        several threads.
        """
        return self._verdicts("trace", record)

    def apply(self, records: Iterable[Record], threads: int) -> Iterator[Record]:
        """The same records in the same order, each with its verdicts, in place of earlier ones.

        A bounded number of records is judged ahead of the one that is yielded.
        """
        pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="filter")
        pending: deque[tuple[Record, Future[list[Verdict]]]] = deque()
        try:
            for record in records:
                pending.append((record, pool.submit(self._both, record)))
                if len(pending) > _AHEAD_PER_THREAD * max(1, threads):
                    yield _finished(*pending.popleft())
            while pending:
                yield _finished(*pending.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _both(self, record: Record) -> list[Verdict]:
        return self.check_question(record.task) + self.check_trace(record)

    def _verdicts(self, level: str, record: Record) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for one, check in self.checks:
            if one.level != level:
                continue
            if one.has("ASKS_TEACHER") and any(verdict.drops for verdict in verdicts):
                continue
            start = time.perf_counter()
            outcome = one.judge(check, record)
            verdicts.append(one.verdict(outcome, time.perf_counter() - start))
        return verdicts

    def close(self) -> None:
        """Ends what the filters hold, such as worker processes."""
        for _, check in self.checks:
            if close := getattr(check, "close", None):
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


def _finished(record: Record, judged: Future[list[Verdict]]) -> Record:
    record.verdicts = judged.result()
    return record
