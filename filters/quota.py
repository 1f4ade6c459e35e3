"""Takes so many records of each group (source, level, ...), or a total shared out over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from filters._selection import Key, draw, with_groups
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
    the numbers add up to `total`, or to all that `max` leaves where that is less. `take: random`
    hangs on seed and ids alone, not on the data's order.

    Raises:
        UserError: While it runs: a metadata key is on no record, or a group of `max` is not there.
    """

    def check(records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        groups: defaultdict[str, list[tuple[bytes, str, int]]] = defaultdict(list)
        for index, (group, record) in enumerate(with_groups(records(), config.by, "quota")):
            drawn = config.take == "random"
            lot, name = (draw(context.seed, record.id), record.id) if drawn else (b"", "")
            groups[group].append((lot, name, index))
        sizes = {group: len(members) for group, members in groups.items()}
        quotas = shared_out(config, sizes)
        ranks = [0] * sum(sizes.values())
        group_of = [""] * len(ranks)
        for group, members in groups.items():
            members.sort()
            for rank, (_, _, index) in enumerate(members, 1):
                ranks[index], group_of[index] = rank, group
        for rank, group in zip(ranks, group_of, strict=True):
            size, quota = sizes[group], quotas[group]
            reason = "" if rank <= quota else f"over the quota: {quota} of {size} in {group}"
            evidence = {"group": group, "of": size, "taken": quota}
            yield Decision(not reason, reason, rank, quota, evidence)

    return check


def memory(config: Config, records: int) -> int:
    """Bytes that it holds: a lot and a name for each record."""
    return 400 * records


def shared_out(config: Config, sizes: dict[str, int]) -> dict[str, int]:
    """How many of each group are taken; raises UserError where `max` names none of them."""
    if isinstance(config.max, dict) and sizes and (unknown := sorted(config.max.keys() - sizes)):
        raise UserError(f"filter quota: no group {unknown[0]!r}{nearest(unknown[0], sizes)}")
    caps = config.max if isinstance(config.max, dict) else dict.fromkeys(sizes, config.max)
    available = {
        name: size if (cap := caps.get(name)) is None else min(size, cap)
        for name, size in sizes.items()
    }
    whole = sum(available.values())
    if config.total is None or whole <= config.total:
        return available
    left = config.total
    if config.shares == "equal":
        quotas = {}
        # The smallest first: what they lack of their share goes to those after them.
        ordered = sorted(available, key=lambda name: (available[name], name))
        for groups_left, name in zip(range(len(ordered), 0, -1), ordered, strict=True):
            quotas[name] = min(available[name], left // groups_left)
            left -= quotas[name]
        return quotas
    quotas = {name: size * left // whole for name, size in available.items()}
    by_remainder = sorted(available, key=lambda name: (-(available[name] * left % whole), name))
    for name in by_remainder[: left - sum(quotas.values())]:
        quotas[name] += 1
    return quotas
