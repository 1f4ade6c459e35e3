"""Prices of tokens: from the config, or dated defaults for models that are known."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
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


@functools.cache
def defaults() -> dict[str, dict[str, Default]]:
    """Return the shipped list, by host and model."""
    from ruamel.yaml import YAML

    text = resources.files("synth.teachers").joinpath("prices.yaml").read_text(encoding="utf-8")
    hosts = YAML(typ="safe", pure=True).load(text)["prices"]
    return {
        host: {model: Default(**entry) for model, entry in models.items()}
        for host, models in hosts.items()
    }


def default_of(config: TeacherConfig) -> Default | None:
    """Return the shipped price for a teacher's address and model, or None."""
    host = urlsplit(getattr(config, "base_url", "")).hostname or ""
    return defaults().get(host, {}).get(getattr(config, "model", ""))


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
