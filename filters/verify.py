"""Asks one verifier after the other until one of them can tell; says who decided, and why."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from filters.base import (
    NO_SANDBOX,
    Check,
    Context,
    Decision,
    Figures,
    FilterConfig,
    cannot_tell,
    decide,
)
from filters.engine.filter import Filter, FilterSpec, close_check, load_filters
from synth.config.plugin_entries import split_plugin
from synth.core.errors import UserError
from synth.core.record import Record

_SHOWN = 200


class Config(FilterConfig):
    """Options of `verify`."""

    verifies = True

    by: list[str | dict[str, dict[str, Any] | None]] = Field(
        min_length=1,
        description="Filters in the order in which they are asked, as under `filters`: a name, or "
        "a name with its options",
    )
    also_wrong: bool = Field(
        False,
        description="Also ask the next one where one says no: rules call some right answers wrong",
    )

    @field_validator("by")
    @classmethod
    def _known(cls, by: list[Any]) -> list[Any]:
        try:
            _load(by)
        except UserError as error:
            raise ValueError(str(error)) from error
        return by

    def sub_filters(self) -> list[tuple[str, dict[str, Any]]]:
        """The filters that are asked, and their options."""
        return [split_plugin("filter", entry) for entry in self.by]


def check(config: Config) -> list[str]:
    """What this machine lacks for any of them."""
    parts = [part for part in _load(config.by) if hasattr(part.module, "check")]
    return [line for part in parts for line in part.module.check(part.config)]


def warn(config: Config) -> list[str]:
    """What any of them cannot judge on this machine."""
    parts = [part for part in _load(config.by) if hasattr(part.module, "warn")]
    return [line for part in parts for line in part.module.warn(part.config)]


class Verify:
    """The verdict of the first verifier that can tell, with its score and threshold.

    With `also_wrong` a no is not the end: the next ones are asked, and one yes is enough. Without a
    yes the first no stands. The evidence has who decided, its own evidence, and what the others
    that were asked said. Code without a sandbox is left to nobody else: it is a case of its own.
    """

    def __init__(self, config: Config, context: Context) -> None:
        self._parts, self._also_wrong = _load(config.by), config.also_wrong
        self._checks: list[Check] = [part.build(context) for part in self._parts]

    def __call__(self, record: Record) -> Decision:
        """The verdict on one record."""
        asked: list[tuple[str, Decision]] = []
        for part, check in zip(self._parts, self._checks, strict=True):
            outcome = part.judge(check, record)
            if isinstance(outcome, Figures):
                outcome = decide(outcome, part.config)
            asked.append((part.name, outcome))
            if outcome.reason == NO_SANDBOX:  # it is code: the others know nothing of that
                return outcome._replace(evidence={"by": part.name, **(outcome.evidence or {})})
            if outcome.keep or (outcome.keep is False and not self._also_wrong):
                break
        verdicts = [decision.keep for _, decision in asked]
        deciding = next((keep for keep in (True, False) if keep in verdicts), None)
        if deciding is None:
            why = (f"{by}: {no.reason.removeprefix('cannot tell: ')}" for by, no in asked)
            return cannot_tell("; ".join(why)[:_SHOWN], {"asked": _reasons(asked)})
        by, decision = asked.pop(verdicts.index(deciding))
        evidence: dict[str, Any] = {"by": by}
        if asked:
            evidence["others"] = _reasons(asked)
        if decision.evidence:
            evidence["evidence"] = dict(decision.evidence)
        return decision._replace(evidence=evidence)

    def close(self) -> None:
        """Closes all of them."""
        for check in self._checks:
            close_check(check)


def _reasons(asked: list[tuple[str, Decision]]) -> list[dict[str, str]]:
    return [{"filter": by, "said": decision.reason[:_SHOWN]} for by, decision in asked]


def _load(by: list[Any]) -> list[Filter]:
    """The filters; UserError where there is none such, or it cannot be one of these."""
    named = [split_plugin("filter", entry) for entry in by]
    for name, options in named:
        if {"action", "cannot_tell"} & set(options):
            raise UserError(f"{name}: action and cannot_tell are options of verify as a whole")
    loaded = load_filters([FilterSpec(name, options) for name, options in named])
    for part in loaded:
        if part.level != "trace":
            raise UserError(f"{part.name} does not judge a trace by itself (LEVEL {part.level})")
    return loaded


build = Verify
