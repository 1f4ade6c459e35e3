"""Prices of tokens: from the config, or dated defaults for models that are known."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

from synth.teachers.contract import Price, TeacherConfig


@functools.cache
def defaults() -> dict[str, Any]:
    """The shipped list: `as_of` (a date) and `prices` by host and model."""
    from ruamel.yaml import YAML

    text = resources.files("synth").joinpath("prices.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return found


def price_of(config: TeacherConfig) -> Price | None:
    """What a teacher's tokens cost: as its config says, else by the shipped list, else None."""
    if config.price is not None:
        return config.price
    from urllib.parse import urlsplit

    host = urlsplit(getattr(config, "base_url", "")).hostname or ""
    known = defaults()["prices"].get(host, {}).get(getattr(config, "model", ""))
    return Price(input=known["input"], output=known["output"]) if known else None
