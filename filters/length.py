"""Drops traces that are too short or too long, in the student's tokens."""

from __future__ import annotations

from pydantic import Field, model_validator

from filters.contract import Check, Context, Decision
from synth.plugins import PluginConfig
from synth.reasoning import join_trace
from synth.record import Record

USES_STUDENT_TOKENS = True


class Config(PluginConfig):
    """Options of `length`."""

    min: int | None = Field(None, ge=0, description="Fewest tokens, reasoning and answer together")
    max: int | None = Field(None, ge=1, description="Most tokens, reasoning and answer together")
    reasoning_max: int | None = Field(None, ge=1, description="Most tokens of the reasoning")
    answer_max: int | None = Field(None, ge=1, description="Most tokens of the answer")

    @model_validator(mode="after")
    def _bounds(self) -> Config:
        if not self.model_fields_set:
            raise ValueError("give at least one bound, such as max: 4096")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) is more than max ({self.max}): nothing passes")
        return self


def build(config: Config, context: Context) -> Check:
    """The check. The score is the tokens of the whole trace, think tags included.

    Both ends of a bound are allowed values. `reasoning_max` counts the reasoning without its
    tags; a trace without reasoning has 0 tokens of it.
    """

    def check(record: Record) -> Decision:
        tokens = context.count_tokens(join_trace(record.reasoning, record.answer))
        if config.min is not None and tokens < config.min:
            return Decision(False, f"too short: {tokens} tokens of {config.min}", tokens)
        if config.max is not None and tokens > config.max:
            return Decision(False, f"too long: {tokens} tokens of {config.max}", tokens)
        for part, text, most in (
            ("reasoning", record.reasoning, config.reasoning_max),
            ("answer", record.answer, config.answer_max),
        ):
            if most is not None and text and (count := context.count_tokens(text)) > most:
                return Decision(False, f"{part} too long: {count} tokens of {most}", tokens)
        return Decision(True, "", tokens)

    return check
