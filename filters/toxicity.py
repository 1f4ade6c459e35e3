"""Scores traces with a classifier of toxicity, or of anything else that one label tells."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from filters._models.classifier import lacking, load_once
from filters.base import Check, Context, Figures, FilterConfig, Measures
from synth.core.record import Record


class Config(FilterConfig):
    """Options of `toxicity`."""

    needs = ("one_process",)
    measures: ClassVar[Measures] = {"score": "toxic"}

    model: str = Field(description="A sequence-classification model: a hub id or a folder")
    label: str = Field("toxic", description="The label whose probability is the score")
    score_max: float | None = Field(
        0.5, ge=0, le=1, description="Largest score that passes; 0.5: the model says no"
    )
    score_min: float | None = Field(None, ge=0, le=1, description="Smallest score that passes")
    window: int = Field(512, ge=16, description="Tokens judged at once, if the model takes as many")
    overlap: int = Field(64, ge=0, description="Tokens that neighbouring windows share")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="In what precision the model runs"
    )
    device: str | None = Field(None, description="A torch device; the GPU where there is one")
    trust_remote_code: bool = Field(False, description="Run code that lies beside the weights")

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.overlap * 2 > self.window:
            raise ValueError(f"overlap ({self.overlap}) is more than half of the window")
        return self


def check(config: Config) -> list[str]:
    """What this machine lacks."""
    return lacking("the filter toxicity")


def build(config: Config, context: Context) -> Check:
    """The measurement: the label's largest probability over the windows of reasoning and answer.

    The whole trace is read, in windows that overlap. Evidence names the part and the characters of
    the window with the largest score. A part of white space alone is not judged.
    """
    load = load_once(
        config.label, config.model, config.dtype, config.device, config.trust_remote_code
    )

    def check(record: Record) -> Figures:
        classifier, label = load()
        assert label is not None
        tokens = min(config.window, classifier.longest)
        overlap = min(config.overlap, tokens // 4)
        windows = [
            (part, window)
            for part, text in (("reasoning", record.reasoning), ("answer", record.answer))
            if text and text.strip()
            for window in classifier.windows(text, tokens, overlap)
        ]
        if not windows:
            return Figures({"score": None})
        rows = classifier.logits([window.ids for _, window in windows])
        scores = [classifier.probabilities(row)[label] for row in rows]
        worst = max(range(len(scores)), key=scores.__getitem__)
        part, window = windows[worst]
        evidence = {"part": part, "start": window.start, "end": window.end, "windows": len(windows)}
        return Figures({"score": scores[worst]}, evidence)

    return check
