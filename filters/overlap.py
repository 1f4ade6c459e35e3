"""Drops questions that overlap an evaluation question, before anything is bought for them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from synth.core.record import Record

from filters._decontamination.eval_sets import listed
from filters._decontamination.index import SHORTEST, OverlapConfig, build_index, tokens_of
from filters.base import Check, Context, Figures, Measures


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
    """The check, which measures how much of an evaluation question a question has in it.

    `overlap` is 1 where both have the same words (`reordered`: in any order, so `12 - 34` and
    `34 - 12` too, which is the careful side). Else it is the share of the evaluation question's
    words that stand in runs of 3 words which the question has as well; a word weighs by its rarity
    among the evaluation questions, and where the share of the numbers and operators is less, that
    counts. Shares under 0.5 are given as 0. Evaluation questions of fewer than 5 words are found
    only where they are the whole question.

    Words are those of `normalise_question` in `synth.core.question_text`; code of drawings
    (`[asy]`) is left out.

    Raises:
        UserError: An evaluation set cannot be loaded.
    """
    return _Overlap(config, context)


class _Overlap:
    def __init__(self, config: Config, context: Context) -> None:
        self._index, self.notes = build_index(config.sets, context)
        self._reordered = config.reordered
        if short := [f"{item.set} {item.id}" for item in self._index.short]:
            self.notes.append(
                f"found only where they are the whole question, as they have fewer than {SHORTEST} "
                f"words: {listed(short)}"
            )

    def __call__(self, record: Record) -> Figures:
        tokens = tokens_of(record.task.question)
        hit = self._index.same(tokens, self._reordered) or self._index.within(tokens)
        if hit is None:
            return Figures({"overlap": 0.0 if self._index.size else None})
        return Figures({"overlap": hit.overlap}, hit.evidence)
