"""Drops traces whose think block or final answer is missing or malformed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from filters.base import KEEP, Check, Context, Decision, FilterConfig
from synth.core.boxed import boxes
from synth.core.reasoning import Mark, marks
from synth.core.record import Record

_AROUND = 40
_SHOWN = 10


class Config(FilterConfig):
    """Options of `think_format`."""

    version = 2

    require_reasoning: bool = Field(True, description="Drop a trace that did not think first")
    final_answer: Literal["boxed", "text", "none"] = Field(
        "text", description="What follows the thinking: a \\boxed{...}, any text, or nothing asked"
    )


def build(config: Config, context: Context) -> Check:
    r"""The check. It reads what `synth.core.reasoning` made of the response, in no language.

    A tag of any dialect that is left in the reasoning or in the answer means a nested, a second, an
    unclosed or a stray think block, so the trace is malformed however it reads, also where the
    model only speaks of the tags. In a record from outside it may be a block that nobody has read.
    The evidence says which tag, and where.

    White space alone is empty. With `boxed`, at least one box in the answer has to close and hold
    something; a box in the reasoning does not count.
    """

    def check(record: Record) -> Decision:
        reasoning, answer = record.reasoning or "", record.answer
        thought = bool(reasoning.strip())
        for place, text in (("reasoning", reasoning), ("answer", answer)):
            if found := marks(text):
                kind = _nested(found) if place == "reasoning" else _second(found, thought)
                evidence = {"place": place, "tags": _shown(text, found)}
                reason = f"{kind}: {found[0].text} in the {place}"
                return Decision(False, reason, evidence=evidence)
        if config.require_reasoning and not thought:
            return Decision(False, "no reasoning")
        if config.final_answer != "none" and not answer.strip():
            return Decision(False, "no answer", evidence={"reasoning ends": reasoning[-_AROUND:]})
        if config.final_answer == "boxed":
            held = boxes(answer)
            if not any(content.strip() for _, _, content in held):
                evidence = {"answer ends": answer[-_AROUND:]}
                return Decision(
                    False, "empty box" if held else "no boxed answer", None, None, evidence
                )
        return KEEP

    return check


def _nested(found: list[Mark]) -> str:
    return "nested think tag" if any(m.kind == "open" for m in found) else "stray think tag"


def _second(found: list[Mark], thought: bool) -> str:
    """What tags in an answer make of it."""
    kinds = [mark.kind for mark in found]
    if "open" not in kinds:
        return "stray think tag"
    if "close" not in kinds[kinds.index("open") :]:
        return "unclosed think tag"
    return "second think block" if thought else "unread think block"


def _shown(text: str, found: list[Mark]) -> list[dict[str, str | int]]:
    return [
        {
            "tag": mark.text,
            "at": mark.at,
            "text": text[max(0, mark.at - _AROUND) : mark.at + len(mark.text) + _AROUND],
        }
        for mark in found[:_SHOWN]
    ]
