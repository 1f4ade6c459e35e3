"""Measures a trace, its reasoning and its answer in tokens of the student."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from filters.base import Check, Context, Figures, FilterConfig, Measures
from synth.core.reasoning import join_trace
from synth.core.record import Record


class Config(FilterConfig):
    """Options of `length`."""

    version = 2
    needs = ("student_tokens",)
    measures: ClassVar[Measures] = {
        "tokens": ("too short", "too long"),
        "reasoning_tokens": ("reasoning too short", "reasoning too long"),
        "answer_tokens": ("answer too short", "answer too long"),
    }

    tokens_min: int | None = Field(None, ge=0, description="Fewest tokens of the whole trace")
    tokens_max: int | None = Field(None, ge=1, description="Most tokens of the whole trace")
    reasoning_tokens_min: int | None = Field(
        None, ge=0, description="Fewest tokens of the reasoning"
    )
    reasoning_tokens_max: int | None = Field(None, ge=1, description="Most tokens of the reasoning")
    answer_tokens_min: int | None = Field(None, ge=0, description="Fewest tokens of the answer")
    answer_tokens_max: int | None = Field(None, ge=1, description="Most tokens of the answer")

    @model_validator(mode="after")
    def _bounds(self) -> Config:
        options = vars(self)
        bounds = {name: (options[f"{name}_min"], options[f"{name}_max"]) for name in self.measures}
        for name, (low, high) in bounds.items():
            if low is not None and high is not None and low > high:
                raise ValueError(f"{name}_min ({low}) is more than {name}_max ({high})")
        if set(bounds.values()) == {(None, None)}:
            raise ValueError("give at least one bound, such as tokens_max: 4096")
        return self


def build(config: Config, context: Context) -> Check:
    """The check. `tokens` is the whole trace as the student is trained on it, think tags included.

    Both ends of a bound are allowed values. Reasoning and answer are counted without tags, each by
    itself; no reasoning has 0 tokens.
    """

    def check(record: Record) -> Figures:
        reasoning, answer = record.reasoning, record.answer
        values = {
            "tokens": context.count_tokens(join_trace(reasoning, answer)),
            "reasoning_tokens": context.count_tokens(reasoning) if reasoning else 0,
            "answer_tokens": context.count_tokens(answer) if answer else 0,
        }
        return Figures(values)

    return check
