"""Drops traces that are far longer or shorter than the others of their source."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator
from statistics import median
from typing import Literal

from pydantic import Field

from filters._selection import length
from filters.base import Context, Decision, FilterConfig, SetCheck, cannot_tell
from synth.core.record import Record

# The median absolute deviation of a normal distribution is this share of its standard deviation.
_MAD_OF_NORMAL = 0.6745


class Config(FilterConfig):
    """Options of `length_outliers`."""

    filter_level = "set"

    cannot_tell: Literal["tag", "drop"] | None = Field(
        "tag", description="What follows for a source of too few records"
    )
    z: float = Field(3.5, gt=0, description="Largest distance from the source's median length")
    least: int = Field(
        30, ge=3, description="Records of a source from which its lengths are compared"
    )


def memory(config: Config, records: int) -> int:
    """Bytes held: lengths twice and sources in arrays, and lengths once more as sorted objects."""
    return 64 * records


def build(config: Config, context: Context) -> SetCheck:
    """The check: the modified z-score of the logarithm of a trace's length, within its source.

    0.6745 (x - median) / MAD, where MAD is the median distance from the median, and 3.5 as its
    bound, are those of Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993). The length
    is in characters, and its logarithm is taken since lengths spread by factors. Where more than
    half of a source's traces have one length there is no scale, and all of them pass.
    """

    def check(records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        numbers: dict[str, int] = {}  # of the sources
        sources, lengths = array("I"), array("d")
        for record in records():
            sources.append(numbers.setdefault(record.task.source, len(numbers)))
            lengths.append(math.log(1 + length(record)))
        by_source: list[array[float]] = [array("d") for _ in numbers]
        for source, x in zip(sources, lengths, strict=True):
            by_source[source].append(x)
        centers = [median(values) for values in by_source]
        mads = [
            median(abs(value - center) for value in values)
            for values, center in zip(by_source, centers, strict=True)
        ]
        for source, x in zip(sources, lengths, strict=True):
            yield _decide(x, centers[source], mads[source], len(by_source[source]), config)

    return check


def _decide(x: float, center: float, mad: float, count: int, config: Config) -> Decision:
    evidence = {
        "length": round(math.exp(x)) - 1,
        "median": round(math.exp(center)) - 1,
        "mad": round(mad, 4),
        "records": count,
    }
    if count < config.least:
        return cannot_tell("few records of this source", evidence)
    if mad == 0:
        return Decision(True, "", None, config.z, evidence)
    z = _MAD_OF_NORMAL * (x - center) / mad
    if abs(z) <= config.z:
        return Decision(True, "", z, config.z, evidence)
    kind = "far longer" if z > 0 else "far shorter"
    reason = f"{kind} than others: z {z:.3g}, bound {config.z:.3g}"
    return Decision(False, reason, z, config.z, evidence)
