"""Scores traces by a reward model: any sequence classifier that transformers loads."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from filters._models.classifier import lacking, load_once
from filters.base import Check, Context, Decision, Figures, FilterConfig, Measures, cannot_tell
from synth.core.errors import UserError
from synth.core.models import locate
from synth.core.reasoning import join_trace
from synth.core.record import Record

# Longer texts are not even tokenised: no model reads as many tokens.
_LONGEST = 2_000_000


class Config(FilterConfig):
    """Options of `reward_model`."""

    needs = ("one_process",)
    measures: ClassVar[Measures] = {"score": ("low reward", "high reward")}

    model: str = Field(description="A sequence classifier: a hub id or a folder")
    score_min: float | None = Field(None, description="Lowest score that is kept")
    score_max: float | None = Field(None, description="Highest score that is kept")
    label: str | None = Field(
        None,
        description="The label whose probability is the score, where the model has several; with "
        "one the score is its output as it is",
    )
    text: Literal["both", "answer", "reasoning"] = Field(
        "both", description="What of a trace the model reads, after the question"
    )
    chat_template: bool = Field(
        True, description="Put the texts into the model's chat template, where it has one"
    )
    tokens_max: int = Field(
        4096, ge=8, description="Longer texts are not scored, nor what is too long for the model"
    )
    dtype: str = Field("auto", description="A torch dtype, or auto for what the checkpoint holds")
    device: str | None = Field(None, description="A torch device; the GPU where there is one")
    trust_remote_code: bool = Field(
        False, description="Whether code that lies beside the weights may run"
    )


def check(config: Config) -> list[str]:
    """What this machine lacks for the filter."""
    missing = lacking("the filter reward_model")
    try:
        locate(config.model)
    except UserError as error:
        missing.append(str(error))
    return missing


def build(config: Config, context: Context) -> Check:
    """The check, which measures the model's score.

    A text that is too long for the model is not cut: the end is what a reward is about. The first
    record raises UserError where there is no such model or it has no such label.
    """
    load = load_once(
        config.label, config.model, config.dtype, config.device, config.trust_remote_code
    )

    def check(record: Record) -> Decision | Figures:
        question = record.task.question
        text = {
            "both": join_trace(record.reasoning, record.answer),
            "answer": record.answer,
            "reasoning": record.reasoning or "",
        }[config.text]
        if not text.strip():
            return cannot_tell(f"no {'text' if config.text == 'both' else config.text}")
        if len(text) + len(question) > _LONGEST:
            return cannot_tell("too long for the model")
        model, label = load()
        if label is None and len(model.labels) > 1:
            labels = ", ".join(model.labels)
            raise UserError(f"reward_model: {config.model} has several labels ({labels})")
        ids = model.exchange_ids(question, text, config.chat_template)
        if len(ids) > min(model.longest, config.tokens_max):
            return cannot_tell("too long for the model", {"tokens": len(ids)})
        logits = model.logits([ids])[0]
        score = logits[0] if label is None else model.probabilities(logits)[label]
        if not math.isfinite(score):
            return cannot_tell("the model gives no finite score")
        return Figures({"score": score}, {"tokens": len(ids)})

    return check
