"""Drops questions that overlap an evaluation question, before anything is bought for them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from filters._decontamination.index import SHORTEST, OverlapCheck, OverlapConfig, tokens_of
from filters.base import Check, Context, Figures, Measures
from synth.core.record import Record


class Config(OverlapConfig):
    """Options of `overlap`."""

    filter_level = "question"
    version = 2
    needs = ("eval_tasks",)
    measures: ClassVar[Measures] = {"overlap": "overlaps evaluation"}

    reordered: bool = Field(
        True, description="Also the same words in another order, as 12 + 34 and 34 + 12"
    )


def build(config: Config, context: Context) -> Check:
    """Build the check, which measures how much of an evaluation question a question has in it.

    `overlap` is 1 where both have the same words (`reordered`: in any order, so `12 - 34` and
    `34 - 12` too, which is the careful side). Else it is the weighted share of the evaluation
    question's words that stand in runs which the question has as well; see `Hit`. Shares under 0.5
    are given as 0. Raises UserError where an evaluation set cannot be loaded.
    """
    return _Overlap(config, context)


class _Overlap(OverlapCheck):
    def __init__(self, config: Config, context: Context) -> None:
        note = "found only where they are the whole question"
        super().__init__(config, context, SHORTEST, note)
        self._reordered = config.reordered

    def __call__(self, record: Record) -> Figures:
        tokens = tokens_of(record.task.question)
        return self._figures(
            self._index.same(tokens, self._reordered) or self._index.within(tokens)
        )
