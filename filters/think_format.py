"""Drops traces whose think block or final answer is missing or malformed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from filters.base import KEEP, Check, Context, Decision, FilterConfig
from synth.core.reasoning import Mark, marks
from synth.core.record import Record
from synth.core.text.boxed import boxes

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
    unclosed or a stray think block, also where the model only speaks of the tags; in a record from
    outside it may be a block that nobody has read. With `boxed`, at least one box in the answer has
    to close and hold something.
    """

    def check(record: Record) -> Decision:
        reasoning, answer = record.reasoning or "", record.answer
        thought = bool(reasoning.strip())
        for place, text in (("reasoning", reasoning), ("answer", answer)):
            if tags := marks(text):
                kind = _kind_of(tags, place == "answer", thought)
                evidence = {"place": place, "tags": _shown(text, tags)}
                reason = f"{kind}: {tags[0].text} in the {place}"
                return Decision(False, reason, evidence=evidence)
        if config.require_reasoning and not thought:
            return Decision(False, "no reasoning")
        if config.final_answer != "none" and not answer.strip():
            return Decision(False, "no answer", evidence={"reasoning ends": reasoning[-_AROUND:]})
        if config.final_answer == "boxed":
            contents = [content.strip() for _, _, content in boxes(answer)]
            if not any(contents):
                reason = "empty box" if contents else "no boxed answer"
                return Decision(False, reason, evidence={"answer ends": answer[-_AROUND:]})
        return KEEP

    return check


def _kind_of(tags: list[Mark], in_answer: bool, thought: bool) -> str:
    """What the tags that are left in one part make of it."""
    kinds = [tag.kind for tag in tags]
    if "open" not in kinds:
        return "stray think tag"
    if not in_answer:
        return "nested think tag"
    if "close" not in kinds[kinds.index("open") :]:
        return "unclosed think tag"
    return "second think block" if thought else "unread think block"


def _shown(text: str, tags: list[Mark]) -> list[dict[str, str | int]]:
    shown: list[dict[str, str | int]] = []
    for tag in tags[:_SHOWN]:
        around = text[max(0, tag.at - _AROUND) : tag.at + len(tag.text) + _AROUND]
        shown.append({"tag": tag.text, "at": tag.at, "text": around})
    return shown
