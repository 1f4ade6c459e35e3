"""Takes so many records of each group (source, level, ...), or a total shared out over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from filters._selection import Key, Seen, draw, group_of
from filters.base import Context, Decision, FilterConfig, SetCheck
from synth.core.errors import UserError, nearest
from synth.core.record import Record


class Config(FilterConfig):
    """Options of `quota`."""

    filter_level = "set"

    by: list[Key] = Field(
        default=["source"],
        min_length=1,
        description="What makes a group: source, teacher, question, or metadata.NAME",
    )
    max: Annotated[int, Field(ge=0)] | dict[str, Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Most of each group; or a number for some groups, by name"
    )
    total: int | None = Field(None, ge=1, description="How many records in all")
    shares: Literal["equal", "proportional"] = Field(
        "equal", description="How `total` is shared out over the groups"
    )
    take: Literal["random", "first"] = Field(
        "random", description="Which of a group: drawn by the run's seed, or the first in the data"
    )

    @model_validator(mode="after")
    def _something(self) -> Config:
        if self.max is None and self.total is None:
            raise ValueError("give max or total, or both")
        return self


def build(config: Config, context: Context) -> SetCheck:
    """The check. A group's name is its values of `by`, such as `gsm8k / 3`.

    With `total`, equal shares: a group that has less than its share gives all that it has, and
    the others share the rest. Proportional shares are rounded by the largest remainder. Either way
    the numbers add up to `total`, or to all that `max` leaves where that is less.

    `take: random` hangs on seed and ids alone, not on the data's order.

    Raises:
        UserError: While it runs: a metadata key is on no record, or a group of `max` is not there.
    """

    def check(records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        groups: defaultdict[str, list[tuple[bytes, str, int]]] = defaultdict(list)
        seen, count = Seen(config.by), 0
        for place, record in enumerate(records()):
            seen.add(record)
            lot = draw(context.seed, record.id) if config.take == "random" else b""
            name = record.id if config.take == "random" else ""
            groups[group_of(record, config.by)].append((lot, name, place))
            count += 1
        seen.refuse_missing("quota")
        sizes = {name: len(members) for name, members in groups.items()}
        quotas = shared_out(config, sizes)
        rank = [0] * count
        where = [""] * count
        for name, members in groups.items():
            members.sort()
            for number, (_, _, place) in enumerate(members):
                rank[place], where[place] = number, name
        for number, name in zip(rank, where, strict=True):
            quota = quotas[name]
            evidence = {"group": name, "of": sizes[name], "taken": quota}
            if number < quota:
                yield Decision(True, "", number + 1, quota, evidence)
            else:
                reason = f"over the quota: {quota} of {sizes[name]} in {name}"
                yield Decision(False, reason, number + 1, quota, evidence)

    return check


def memory(config: Config, records: int) -> int:
    """Bytes that it holds: a lot and a name for each record."""
    return 400 * records


def shared_out(config: Config, sizes: dict[str, int]) -> dict[str, int]:
    """How many of each group are taken.

    Raises:
        UserError: `max` names a group that is not there.
    """
    most = dict(sizes)
    for name, size in sizes.items():
        cap = config.max.get(name) if isinstance(config.max, dict) else config.max
        most[name] = size if cap is None else min(size, cap)
    if isinstance(config.max, dict) and sizes and (unknown := sorted(config.max.keys() - sizes)):
        raise UserError(f"filter quota: no group {unknown[0]!r}{nearest(unknown[0], sizes)}")
    total = sum(most.values())
    if config.total is None or total <= config.total:
        return most
    if config.shares == "equal":
        return _equal(most, config.total)
    return _proportional(most, config.total)


def _equal(most: dict[str, int], total: int) -> dict[str, int]:
    quotas = {}
    # The smallest first: what they lack of their share goes to those after them.
    ordered = sorted(most, key=lambda name: (most[name], name))
    for left, name in zip(range(len(ordered), 0, -1), ordered, strict=True):
        quotas[name] = min(most[name], total // left)
        total -= quotas[name]
    return quotas


def _proportional(most: dict[str, int], total: int) -> dict[str, int]:
    size = sum(most.values())
    quotas = {name: number * total // size for name, number in most.items()}
    by_remainder = sorted(most, key=lambda name: (-(most[name] * total % size), name))
    for name in by_remainder[: total - sum(quotas.values())]:
        quotas[name] += 1
    return quotas
