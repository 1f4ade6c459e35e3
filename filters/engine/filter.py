"""Placeholder."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from pydantic import ValidationError

from filters.base import Check, Decision, Figures, FilterConfig, bounds, decide
from synth.core import plugins
from synth.core.errors import DistillError, UserError
from synth.core.record import Record, Verdict, canonical_json, digest

_LEVELS = ("question", "trace", "set")


_CLIP = 120


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
