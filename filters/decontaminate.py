"""Drops traces in which an evaluation question stands, in the reasoning or in the answer."""

from __future__ import annotations

from typing import ClassVar

from synth.core.record import Record

from filters._decontamination.eval_sets import listed
from filters._decontamination.index import SHORTEST_IN_TRACE, OverlapConfig, build_index, tokens_of
from filters.base import Check, Context, Figures, Measures


class Config(OverlapConfig):
    """Options of `decontaminate`."""

    needs = ("eval_tasks",)
    measures: ClassVar[Measures] = {"overlap": "repeats evaluation"}


def build(config: Config, context: Context) -> Check:
    """The check, which measures how much of an evaluation question a trace has in it.

    `overlap` is what the filter `overlap` measures, over the reasoning and over the answer, and
    the greater of the two: a share of the evaluation question's words counts where they stand near
    together. The question itself is the filter `overlap`'s to check. Evaluation questions of fewer
    than 8 words stand in a trace by chance and are not looked for.

    Raises:
        UserError: An evaluation set cannot be loaded.
    """
    return _Decontaminate(config, context)


class _Decontaminate:
    def __init__(self, config: Config, context: Context) -> None:
        self._index, self.notes = build_index(config.sets, context)
        if short := [f"{item.set} {item.id}" for item in self._index.short_in_trace]:
            self.notes.append(
                f"not looked for in traces, as they have fewer than {SHORTEST_IN_TRACE} words: "
                f"{listed(short)}"
            )

    def __call__(self, record: Record) -> Figures:
        best: Figures | None = None
        for part, text in (("reasoning", record.reasoning), ("answer", record.answer)):
            hit = self._index.within(tokens_of(text or ""), SHORTEST_IN_TRACE)
            if hit is not None and (best is None or hit.overlap > (best.values["overlap"] or 0)):
                best = Figures({"overlap": hit.overlap}, {**hit.evidence, "in": part})
        return best or Figures({"overlap": 0.0 if self._index.size else None})
