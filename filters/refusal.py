"""Drops answers that refuse, and counts where a trace talks about its instructions."""

from __future__ import annotations

import functools
import re
from typing import ClassVar

from pydantic import Field

from filters._text.prose import blanked, clip
from filters._text.tables import any_of, read_table
from filters.base import Check, Context, Figures, FilterConfig, Measures
from synth.core.record import Record

_SHOWN = 5
_APOSTROPHE = str.maketrans("’‘", "''")
_LINE = 500  # how far back a quotation is looked for
_LONGEST_QUESTION = 20_000  # so much of a question is read; each phrase is looked for in it

_Phrases = list[tuple[list[str], re.Pattern[str]]]


@functools.cache
def _phrases(group: str) -> _Phrases:
    """The phrases of a group of the table, each set behind words of which its texts have one."""
    table = read_table("refusal")
    return [
        (entry["keys"], re.compile(any_of(entry["phrases"], table["parts"])))
        for entry in table[group].values()
    ]


class Config(FilterConfig):
    """Options of `refusal`."""

    measures: ClassVar[Measures] = {"refusals": "refusal", "meta": "talk of instructions"}

    refusals_max: float | None = Field(
        0, ge=0, description="Most phrases in the answer that refuse or name the model an AI"
    )
    meta_max: float | None = Field(
        None, ge=0, description="Most phrases about the user or the instructions, anywhere"
    )


def build(config: Config, context: Context) -> Check:
    """The measurement: how many phrases refuse, and how many talk about the instructions.

    Refusals are looked for in the answer: in the reasoning a model may weigh one and answer all the
    same. Talk of the instructions (`the user asks`) is counted in both parts and decides nothing by
    default: chains of thought are full of it. Code, formulas, quotations, and what the question
    says itself do not count.
    """
    refusal_phrases, meta_phrases = _phrases("refusals"), _phrases("meta")

    def measure(record: Record) -> Figures:
        question = _readable(record.task.question[:_LONGEST_QUESTION])
        refusals = _matches("answer", record.answer, refusal_phrases, question)
        meta = _matches("reasoning", record.reasoning or "", meta_phrases, question)
        meta += _matches("answer", record.answer, meta_phrases, question)
        values = {"refusals": float(len(refusals)), "meta": float(len(meta))}
        evidence = {"refusals": refusals[:_SHOWN], "meta": meta[:_SHOWN]}
        return Figures(values, evidence if refusals or meta else None)

    return measure


def _matches(part: str, text: str, phrases: _Phrases, question: str) -> list[dict[str, str | int]]:
    """Where a part of a trace has one of the phrases, in its prose and not in the question."""
    prose = _readable(blanked(text))
    return [
        {
            "part": part,
            "start": match.start(),
            "end": match.end(),
            "phrase": clip(text[match.start() : match.end()]),
        }
        for keys, pattern in phrases
        if any(key in prose for key in keys)
        for match in pattern.finditer(prose)
        if not _quoted(prose, match.start()) and match[0] not in question
    ]


def _quoted(prose: str, position: int) -> bool:
    """Whether a quotation that began in this line is still open at a position."""
    before = prose[max(0, position - _LINE) : position].rpartition("\n")[2]
    pairs = (("“", "”"), ("«", "»"), ("「", "」"), ("『", "』"))
    return before.count('"') % 2 == 1 or any(
        before.count(opened) > before.count(closed) for opened, closed in pairs
    )


def _readable(text: str) -> str:
    """In lower case and with plain apostrophes; as long as before (only İ would grow)."""
    return text.replace("İ", "I").translate(_APOSTROPHE).lower()
