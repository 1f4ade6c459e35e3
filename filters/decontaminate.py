"""Drops traces in which an evaluation question stands, in the reasoning or in the answer."""

from __future__ import annotations

from typing import ClassVar

from filters._decontamination.index import SHORTEST_IN_TRACE, OverlapCheck, OverlapConfig, tokens_of
from filters.base import Check, Context, Figures, Measures
from synth.core.record import Record


class Config(OverlapConfig):
    """Options of `decontaminate`."""

    needs = ("eval_tasks",)
    measures: ClassVar[Measures] = {"overlap": "repeats evaluation"}


def build(config: Config, context: Context) -> Check:
    """Build the check, which measures how much of an evaluation question a trace has in it.

    `overlap` is what the filter `overlap` measures, over the reasoning and over the answer, and
    the greater of the two; the words have to stand near together. Evaluation questions of fewer
    than 8 words stand in a trace by chance and are not looked for. Raises UserError where an
    evaluation set cannot be loaded.
    """
    return _Decontaminate(config, context)


class _Decontaminate(OverlapCheck):
    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context, SHORTEST_IN_TRACE, "not looked for in traces")

    def __call__(self, record: Record) -> Figures:
        hits = {
            part: hit
            for part, text in (("reasoning", record.reasoning), ("answer", record.answer))
            if (hit := self._index.within(tokens_of(text or ""), SHORTEST_IN_TRACE))
        }
        part = max(hits, key=lambda part: hits[part].overlap, default="")
        return self._figures(hits.get(part), **{"in": part})
