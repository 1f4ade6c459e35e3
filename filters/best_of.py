"""Keeps the best traces of each question, by an order that the config states."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from pydantic import Field

from filters._selection import draw, length, verifies
from filters.base import Context, Decision, FilterConfig, SetCheck
from synth.core.errors import UserError, nearest
from synth.core.record import Record

_OWN = ("verified", "shortest", "longest", "first", "random")


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
    highest score first; traces without a score of it come last. Where all that is said is equal
    the id decides, so that the data's order does not (unless `first` is named).

    Raises:
        UserError: While it runs: no record has a verdict of a filter that `by` names.
    """

    def check(records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        questions: defaultdict[str, list[tuple[tuple[float | bytes, ...], str, int]]]
        questions = defaultdict(list)
        filters: set[str] = set()
        count = 0
        for place, record in enumerate(records()):
            filters.update(verdict.filter for verdict in record.verdicts)
            key = tuple(_order(one, record, place, context.seed) for one in config.by)
            questions[record.task.id].append((key, record.id, place))
            count += 1
        _refuse_unknown(config, filters, count)
        decisions = [Decision(True)] * count
        for traces in questions.values():
            traces.sort()
            best = [name for _, name, _ in traces[: config.k]]
            for rank, (_, _, place) in enumerate(traces, 1):
                evidence = {"rank": rank, "of": len(traces), "best": best[:3]}
                reason = "" if rank <= config.k else f"not the best: {rank} of {len(traces)}"
                decisions[place] = Decision(not reason, reason, rank, config.k, evidence)
        yield from decisions

    return check


def memory(config: Config, records: int) -> int:
    """Bytes that it holds: what each record is ordered by, and its decision."""
    return 900 * records


def _order(by: str, record: Record, place: int, seed: int) -> float | bytes:
    """What a record is sorted by, the best first."""
    if by == "verified":
        said = {verdict.keep for verdict in record.verdicts if verifies(verdict.filter)}
        return 2 if False in said else 0 if True in said else 1
    if by in ("shortest", "longest"):
        return length(record) if by == "shortest" else -length(record)
    if by == "first":
        return place
    if by == "random":
        return draw(seed, record.id)
    name = by.removeprefix("-")
    score = next((v.score for v in record.verdicts if v.filter == name), None)
    if score is None or score != score:
        return float("inf")
    return score if by.startswith("-") else -score


def _refuse_unknown(config: Config, filters: set[str], count: int) -> None:
    for by in config.by:
        name = by.removeprefix("-")
        if count and by not in _OWN and name not in filters:
            hint = nearest(name, {*filters, *_OWN})
            raise UserError(f"filter best_of: by: no filter before it is called {name!r}{hint}")
