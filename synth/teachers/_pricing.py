"""Prices of tokens: from the config, or dated defaults for models that are known."""

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

    price: Price
    as_of: datetime.date
    source: str


@functools.cache
def defaults() -> dict[str, dict[str, Default]]:
    """The shipped list, by host and model."""
    from ruamel.yaml import YAML

    text = resources.files("synth.teachers").joinpath("prices.yaml").read_text(encoding="utf-8")
    hosts: dict[str, dict[str, Any]] = YAML(typ="safe", pure=True).load(text)["prices"]
    return {
        host: {
            model: Default(
                Price(input=said["input"], output=said["output"]), said["as_of"], said["source"]
            )
            for model, said in models.items()
        }
        for host, models in hosts.items()
    }


def default_of(config: TeacherConfig) -> Default | None:
    """The shipped price for a teacher's address and model, or None."""
    host = urlsplit(getattr(config, "base_url", "")).hostname or ""
    return defaults().get(host, {}).get(getattr(config, "model", ""))


def price_of(config: TeacherConfig) -> Price | None:
    """What a teacher's tokens cost: as its config says, else by the shipped list, else None."""
    if config.price is not None:
        return config.price
    known = default_of(config)
    return known.price if known else None


def default_lines(
    teachers: Mapping[str, TeacherConfig], today: datetime.date | None = None
) -> Iterator[str]:
    """A line for each teacher whose price is a default, so that no cost comes from nowhere.

    Args:
        teachers: Options by the teacher's name.
        today: The day by which a price is judged old; the present one by default.
    """
    today = today or datetime.date.today()
    for name, config in teachers.items():
        known = default_of(config)
        if config.price is not None or known is None:
            continue
        old = today - known.as_of > OLD_AFTER
        yield (
            f"price of {name}: ${known.price.input:g} / ${known.price.output:g} a million tokens, "
            f"as of {known.as_of} ({known.source})"
            + (f"; that is more than a year old, set teachers.{name}.price" if old else "")
        )
