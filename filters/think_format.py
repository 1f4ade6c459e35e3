"""Drops traces whose think block or final answer is missing or malformed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from filters._text import boxes
from filters.contract import KEEP, Check, Context, Decision
from synth.plugins import PluginConfig
from synth.reasoning import CLOSE, OPEN
from synth.record import Record


class Config(PluginConfig):
    """Options of `think_format`."""

    require_reasoning: bool = Field(True, description="Drop a trace that did not think first")
    final_answer: Literal["boxed", "text", "none"] = Field(
        "text", description="What follows the thinking: a \\boxed{...}, any text, or nothing asked"
    )


def build(config: Config, context: Context) -> Check:
    r"""The check. It reads what `synth.reasoning` made of the response.

    A tag that is left in the reasoning or in the answer means a second or a stray think block, so
    the trace is malformed however it reads, also where the model only speaks of the tags. White
    space alone is empty. With `boxed`, at least one box in the answer has to close and hold
    something; a box in the reasoning does not count.
    """

    def check(record: Record) -> Decision:
        if config.require_reasoning and not (record.reasoning or "").strip():
            return Decision(False, "no reasoning")
        for place, text in (("reasoning", record.reasoning or ""), ("answer", record.answer)):
            for tag in (OPEN, CLOSE):
                if tag in text:
                    return Decision(False, f"stray think tag: {tag} in the {place}")
        if config.final_answer != "none" and not record.answer.strip():
            return Decision(False, "no answer")
        if config.final_answer == "boxed":
            found = boxes(record.answer)
            if not found:
                return Decision(False, "no boxed answer")
            if not any(content.strip() for _, _, content in found):
                return Decision(False, "empty box")
        return KEEP

    return check
