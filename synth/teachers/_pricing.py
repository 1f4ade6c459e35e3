"""Prices of tokens, from the config or dated defaults; and the last days of models."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from synth.core.usage import Price
from synth.teachers.base import TeacherConfig

OLD_AFTER = datetime.timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Default:
    """A price that a public page named: which page, and on which day it was read."""

    input: float
    output: float
    as_of: datetime.date
    source: str


@dataclass(frozen=True, slots=True)
class End:
    """The end of a model: the day, what its host names in its place, and the page that says so."""

    ended: datetime.date
    successor: str
    source: str


@functools.cache
def _shipped() -> dict[str, Any]:
    from ruamel.yaml import YAML

    text = resources.files("synth.teachers").joinpath("prices.yaml").read_text(encoding="utf-8")
    lists: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return lists


@functools.cache
def defaults() -> dict[str, dict[str, Default]]:
    """Return the shipped list, by host and model."""
    return {
        host: {model: Default(**entry) for model, entry in models.items()}
        for host, models in _shipped()["prices"].items()
    }


@functools.cache
def ends() -> dict[str, dict[str, End]]:
    """Return the models that have a last day, by host and model."""
    return {
        host: {model: End(**entry) for model, entry in models.items()}
        for host, models in _shipped()["ended"].items()
    }


def _host_and_model(config: TeacherConfig) -> tuple[str, str]:
    host = urlsplit(getattr(config, "base_url", "")).hostname or ""
    return host, getattr(config, "model", "")


def default_of(config: TeacherConfig) -> Default | None:
    """Return the shipped price for a teacher's address and model, or None."""
    host, model = _host_and_model(config)
    return defaults().get(host, {}).get(model)


def end_of(config: TeacherConfig, today: datetime.date | None = None) -> str | None:
    """Return a sentence on the last day of a teacher's model, or None where none is known."""
    host, model = _host_and_model(config)
    if (end := ends().get(host, {}).get(model)) is None:
        return None
    verb = "ended" if (today or datetime.date.today()) >= end.ended else "ends"
    return f"{model} {verb} at {host} on {end.ended} ({end.source}); in its place: {end.successor}"


def warn(config: TeacherConfig) -> list[str]:
    """Return a message where the teacher's model has ended, or will on a day that is known."""
    end = end_of(config)
    return [end] if end else []


def price_of(config: TeacherConfig) -> Price | None:
    """Return what a teacher's tokens cost: by its config, else by the shipped list, else None."""
    if config.price is None and (default := default_of(config)):
        return Price(input=default.input, output=default.output)
    return config.price


def default_lines(
    teachers: Mapping[str, TeacherConfig], today: datetime.date | None = None
) -> Iterator[str]:
    """Yield a line for each teacher whose price is a default, so that no cost comes from nowhere.

    A price is judged old by `today`, the present day by default.
    """
    today = today or datetime.date.today()
    for name, config in teachers.items():
        default = default_of(config)
        if config.price is not None or default is None:
            continue
        old = today - default.as_of > OLD_AFTER
        yield (
            f"price of {name}: ${default.input:g} / ${default.output:g} a million tokens, "
            f"as of {default.as_of} ({default.source})"
            + (f"; that is more than a year old, set teachers.{name}.price" if old else "")
        )
