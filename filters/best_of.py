"""Keeps the best traces of each question, by an order that the config states."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from pydantic import Field

from filters._selection import draw, sort_key
from filters.base import KEEP, Context, Decision, FilterConfig, SetCheck
from synth.core.errors import UserError, nearest
from synth.core.record import Record

_ORDERS = ("verified", "shortest", "longest", "first", "random")


class Config(FilterConfig):
    """Options of `best_of`."""

    filter_level = "set"

    k: int = Field(1, ge=1, description="How many traces of a question are kept")
    by: list[str] = Field(
        default=["verified", "shortest"],
        min_length=1,
        description="What is better, what counts most first: verified, shortest, longest, first, "
        "random, or a filter's name for its score (-NAME: the lowest is best)",
    )


def build(config: Config, context: Context) -> SetCheck:
    """The check. Its score is the trace's place among those of its question, from 1.

    `verified` puts traces that a verifier found right before those on which none can tell, and
    these before wrong ones (which reach it where the verifier only tags). A filter's name puts the
    highest score first and traces without one last. Between equals the id decides, so that the
    data's order does not (unless `first` is named).

    Raises:
        UserError: While it runs: no record has a verdict of a filter that `by` names.
    """

    def check(records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        questions: defaultdict[str, list[tuple[list[float | bytes], str, int]]] = defaultdict(list)
        filters: set[str] = set()
        decisions: list[Decision] = []
        for index, record in enumerate(records()):
            filters.update(verdict.filter for verdict in record.verdicts)
            keys = [_sort_key(by, record, index, context.seed) for by in config.by]
            questions[record.task.id].append((keys, record.id, index))
            decisions.append(KEEP)
        for name in (by.removeprefix("-") for by in config.by if by not in _ORDERS):
            if decisions and name not in filters:
                hint = nearest(name, {*filters, *_ORDERS})
                raise UserError(f"filter best_of: by: no filter before it is called {name!r}{hint}")
        for traces in questions.values():
            traces.sort()
            best = [record_id for _, record_id, _ in traces[: config.k]]
            for rank, (_, _, index) in enumerate(traces, 1):
                evidence = {"rank": rank, "of": len(traces), "best": best[:3]}
                reason = "" if rank <= config.k else f"not the best: {rank} of {len(traces)}"
                decisions[index] = Decision(not reason, reason, rank, config.k, evidence)
        yield from decisions

    return check


def memory(config: Config, records: int) -> int:
    """Bytes that it holds: what each record is ordered by, and its decision."""
    return 900 * records


def _sort_key(by: str, record: Record, index: int, seed: int) -> float | bytes:
    if by == "first":
        return index
    return draw(seed, record.id) if by == "random" else sort_key(record, by)
