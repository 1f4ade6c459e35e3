"""Draws records so that every domain has its share and long traces are preferred (s1's rule)."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator

from pydantic import Field

from filters._selection import Key, length, with_groups
from filters.base import Context, Decision, FilterConfig, SetCheck
from synth.core.record import Record


class Config(FilterConfig):
    """Options of `length_sample`."""

    filter_level = "set"

    total: int = Field(ge=1, description="How many records are drawn")
    by: list[Key] = Field(
        default=["source"],
        min_length=1,
        description="What makes a domain: source, teacher, or metadata.NAME",
    )


def build(config: Config, context: Context) -> SetCheck:
    """The check: the rule by which s1K was drawn (arXiv 2501.19393, section 2.2).

    Until `total` records are drawn: a domain, each as likely as any other that has records left;
    of it a record with probability in proportion to 2^-rank, where rank 1 is the longest trace
    (reasoning and answer, in characters) of those left. The draws hang on the seed and on ids and
    lengths, not on the data's order. Its score is the record's rank by length in its domain.

    Raises:
        UserError: While it runs: a metadata key is on no record.
    """

    def check(records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        domains: defaultdict[str, list[tuple[int, str, int]]] = defaultdict(list)
        for index, (name, record) in enumerate(with_groups(records(), config.by, "length_sample")):
            domains[name].append((length(record), record.id, index))
        for traces in domains.values():
            traces.sort()  # the longest last: there it is cheap to take one out
        ranks = {
            index: (name, len(traces) - number)
            for name, traces in domains.items()
            for number, (_, _, index) in enumerate(traces)
        }
        sizes = {name: len(traces) for name, traces in domains.items()}
        drawn = _drawn(domains, config.total, random.Random(context.seed))
        for index in range(len(ranks)):
            name, rank = ranks[index]
            reason = "" if index in drawn else f"not drawn: rank {rank} by length in {name}"
            yield Decision(not reason, reason, rank, None, {"domain": name, "of": sizes[name]})

    return check


def memory(config: Config, records: int) -> int:
    """Bytes that it holds: a length, a name and a rank for each record."""
    return 500 * records


def _drawn(
    domains: dict[str, list[tuple[int, str, int]]], total: int, rng: random.Random
) -> set[int]:
    """Indices of the records that are drawn; empties the lists."""
    drawn: set[int] = set()
    left = sorted(domains)
    while left and len(drawn) < total:
        number = rng.randrange(len(left))
        traces = domains[left[number]]
        drawn.add(traces.pop(-1 - _geometric(rng, len(traces)))[2])
        if not traces:
            del left[number]
    return drawn


def _geometric(rng: random.Random, size: int) -> int:
    """A number from 0 to size - 1 with probability in proportion to 2^-number."""
    whole = -math.expm1(-size * math.log(2))  # the sum of all 2^-(number + 1)
    return min(size - 1, int(-math.log2(1 - rng.random() * whole)))
