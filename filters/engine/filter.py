"""A filter of a config: its module, its checked options, and what follows from its outcomes."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast, get_args

from pydantic import ValidationError

from filters.base import (
    Check,
    Context,
    Decision,
    Figures,
    FilterConfig,
    Level,
    Need,
    bounds,
    decide,
)
from synth.core import plugins
from synth.core.errors import DistillError, UserError
from synth.core.record import Record, Verdict, canonical_json, digest

_LEVELS = get_args(Level)
_CLIP = 120  # characters of an error
_EVIDENCE_MAX = 20_000  # characters of JSON; a filter that gives more gives none
# Options that say what follows from an outcome. They change no judgement, and are applied to the
# outcomes that the store gives.
_APPLIED_ON_READ = {"action", "cannot_tell"}

Outcome = Decision | Figures


@dataclass(frozen=True)
class FilterSpec:
    """A filter as a config names it."""

    name: str  # its file's name, or the dotted path of the user's own module
    options: dict[str, Any] = field(default_factory=dict)  # what its `Config` takes


@dataclass(frozen=True)
class Filter:
    """A filter of a config, loaded. It is pickled as its spec, and loaded anew."""

    name: str  # what verdicts call it
    spec: FilterSpec
    module: ModuleType
    config: FilterConfig  # its checked options

    def __reduce__(self) -> tuple[Any, ...]:
        return _reload, (self.name, self.spec)

    def build(self, context: Context) -> Any:
        """Returns its `Check`, or `SetCheck`, ready to judge."""
        return self.module.build(self.config, context)

    @property
    def level(self) -> str:
        """`question`, `trace` or `set`."""
        return self.config.filter_level

    @property
    def limit(self) -> float | None:
        """Seconds within which it surely ends over one record, where it says so."""
        if (limit := self.config.limit()) is not None:
            return float(limit)
        return sum(part.limit or 0.0 for part in self.parts) or None

    def needs(self, need: Need) -> bool:
        """Whether its `Config` says so of itself, or a filter within it does."""
        return need in self.config.needs or any(part.needs(need) for part in self.parts)

    @functools.cached_property
    def parts(self) -> list[Filter]:
        """The filters within it, where it is made of others."""
        return load_filters([FilterSpec(*entry) for entry in self.config.sub_filters()])

    @property
    def code(self) -> str | None:
        """The SHA-256 of the source of a user's own module, which may change; None for ours."""
        if "." not in self.module.__name__.removeprefix("filters."):
            return None
        return hashlib.sha256(Path(str(self.module.__file__)).read_bytes()).hexdigest()

    @property
    def foreign_code(self) -> dict[str, str]:
        """The `code` of it and of the filters within it, by name; of users' own modules alone."""
        inner = {name: code for part in self.parts for name, code in part.foreign_code.items()}
        return {**inner, **({self.spec.name: self.code} if self.code else {})}

    def fingerprint(self, **dependencies: Any) -> str:
        """Names its judgement of a record: equal fingerprints judge alike.

        What only follows from a judgement (`action`, the bounds of figures) is left out, so it can
        be changed without judging again. What else the judgement depends on is given as JSON
        values; their keywords are part of the fingerprint.
        """
        options = self.config.model_dump(mode="json")
        for name in _APPLIED_ON_READ | bounds(self.config.measures):
            options.pop(name, None)
        code: Any = self.code or self.config.version
        parts = [part.fingerprint() for part in self.parts]
        return digest([self.module.__name__, code, options, parts, dependencies])

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
        decision = self._decision(outcome)
        return Verdict(
            self.name,
            *decision[:4],
            evidence=canonical_json(decision.evidence) if decision.evidence else None,
            version=self.config.version,
            drops=self.drops(decision),
            seconds=seconds,
        )

    def drops(self, outcome: Outcome) -> bool:
        """Whether its verdict drops the record."""
        keep = self._decision(outcome).keep
        action = (self.config.cannot_tell if keep is None else None) or self.config.action
        return not keep and action == "drop"

    def _decision(self, outcome: Outcome) -> Decision:
        return decide(outcome, self.config) if isinstance(outcome, Figures) else outcome


def checked(outcome: Any) -> Outcome:
    """An outcome in the types that the store of outcomes holds.

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


# Names that a filter's module had in 0.1.0, and the class variables or methods of its `Config` that
# they are now. Users' own modules may have them for one release more.
_OLD_NAMES = {
    "LEVEL": "filter_level",
    "VERSION": "version",
    "MEASURES": "measures",
    "VERIFIES": "verifies",
    "limit": "limit",
    "made_of": "sub_filters",
}
_OLD_NEEDS: dict[str, Need] = {
    "USES_STUDENT_TOKENS": "student_tokens",
    "USES_STUDENT": "student",
    "USES_EVAL_TASKS": "eval_tasks",
    "ASKS_TEACHER": "teacher",
    "ONE_PROCESS": "one_process",
}


def config_class(name: str, module: ModuleType) -> type[FilterConfig]:
    """The `Config` of a filter's module, with what a module of 0.1.0 says of it outside of it.

    Raises:
        UserError: It is no `FilterConfig`.
    """
    config: type[FilterConfig] = module.Config
    if not issubclass(config, FilterConfig):
        raise UserError(f"filter {name!r}: its Config is no FilterConfig")
    if "." not in name:
        return config
    flags = {new: vars(module)[old] for old, new in _OLD_NAMES.items() if old in vars(module)}
    if needs := tuple(need for old, need in _OLD_NEEDS.items() if vars(module).get(old)):
        flags["needs"] = needs
    return type("Config", (config,), flags) if flags else config


def _reload(name: str, spec: FilterSpec) -> Filter:
    return replace(load_filters([spec])[0], name=name)


def close_check(check: Any) -> None:
    """Ends what a check holds, where it holds something."""
    if close := getattr(check, "close", None):
        close()


def load_filters(specs: Sequence[FilterSpec]) -> list[Filter]:
    """These filters without those that are off. One named again is called `NAME.2`, and so on.

    Raises:
        UserError: A filter is unknown, or its options are not what it takes.
    """
    loaded: list[Filter] = []
    times_met: Counter[str] = Counter()
    for spec in specs:
        module = plugins.load("filter", spec.name)
        try:
            config = config_class(spec.name, module)(**spec.options)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg']}" for e in error.errors()
            )
            raise UserError(f"filter {spec.name!r}: {wrong}") from error
        if config.filter_level not in _LEVELS:
            raise UserError(
                f"filter {spec.name!r}: filter_level (LEVEL) is {config.filter_level!r}, none of "
                f"{_LEVELS}"
            )
        times_met[spec.name] += 1
        name = spec.name if times_met[spec.name] == 1 else f"{spec.name}.{times_met[spec.name]}"
        if config.action != "off":
            loaded.append(Filter(name, spec, module, config))
    return loaded
