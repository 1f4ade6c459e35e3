"""Keeps questions by how many of the run's own answers to them are right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from pydantic import Field, model_validator

from filters.base import Context, Decision, Figures, FilterConfig, SetCheck, cannot_tell, decide
from synth.core.errors import UserError, nearest
from synth.core.record import Record

_MEASURES = {"pass_rate": ("too hard", "too easy")}


class Config(FilterConfig):
    """Options of `pass_rate`."""

    filter_level = "set"

    verifier: str = Field(
        "math_answer",
        description="The filter before it whose verdicts count; its action has to be tag",
    )
    pass_rate_min: float | None = Field(None, ge=0, le=1, description="Least share of right ones")
    pass_rate_max: float | None = Field(None, ge=0, le=1, description="Greatest share of them")
    right_only: bool = Field(
        True, description="Of the questions that are kept, drop the answers that are not right"
    )

    @model_validator(mode="after")
    def _bounded(self) -> Config:
        if self.pass_rate_min is None and self.pass_rate_max is None:
            raise ValueError("give pass_rate_min or pass_rate_max, or both")
        return self


def build(config: Config, context: Context) -> SetCheck:
    """The check. The rate of a question: its right answers over those right or wrong.

    A set filter sees what the filters before it did not drop, so the verifier has to stand before
    it with `action: tag`. UserError where no record has a verdict of the verifier.
    """
    return _PassRate(config)


class _PassRate:
    def __init__(self, config: Config) -> None:
        self._config = config
        self.notes: list[str] = []

    def __call__(self, records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        tallies: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        verdicts: list[tuple[str, bool | None]] = []
        filters: set[str] = set()
        name = self._config.verifier
        for record in records():
            filters.update(verdict.filter for verdict in record.verdicts)
            keep = next((v.keep for v in record.verdicts if v.filter == name), None)
            verdicts.append((record.task.id, keep))
            if keep is not None:
                tallies[record.task.id][keep] += 1
        if verdicts and name not in filters:
            unknown = f"no filter before it is called {name!r}{nearest(name, filters)}"
            raise UserError(f"filter pass_rate: verifier: {unknown}")
        if verdicts and not any(keep is False for _, keep in verdicts):
            note = f"no wrong answer reached it, so each rate is 1: has {name} action: tag?"
            self.notes.append(note)
        for question, keep in verdicts:
            wrong, right = tallies.get(question, (0, 0))
            yield self._decide(wrong, right, keep)

    def _decide(self, wrong: int, right: int, keep: bool | None) -> Decision:
        if not wrong + right:
            return cannot_tell("no answer to the question could be verified")
        rate = right / (wrong + right)
        figures = Figures({"pass_rate": rate}, {"right": right, "of": wrong + right})
        decision = decide(figures, self._config, _MEASURES)
        if decision.keep and self._config.right_only and not keep:
            return decision._replace(keep=False, reason="not a right answer")
        return decision


def memory(config: Config, records: int) -> int:
    """Bytes that it holds: a verdict for each record, a tally for each question."""
    return 300 * records
