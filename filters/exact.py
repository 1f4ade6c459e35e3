"""Keeps traces whose answer is the reference as text, up to a level of normalisation."""

from __future__ import annotations

import decimal
import re
from typing import Any, Literal, get_args

from pydantic import Field

from filters._text.math import visible
from filters.answers.boxed import final_boxes
from filters.base import Check, Context, Decision, FilterConfig, cannot_tell
from synth.core.record import Record
from synth.core.text.display import shown
from synth.core.text.question_text import nfkc

Level = Literal["none", "space", "case", "punctuation", "number"]
LEVELS: tuple[Level, ...] = get_args(Level)
# Longer answers are compared as they are, at every level.
_LONGEST = 1_000_000
_MARK = re.compile(r"[^\w\s.+-]|(?<!\d)[.](?!\d)|\.(?!\d)|(?<![\s(])[+-](?!\d)|[+-](?![\d.])")
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,400})?(?:\.\d{1,400})?")


class Config(FilterConfig):
    """Options of `exact`."""

    verifies = True

    level: Level = Field(
        "case",
        description="What does not count; each level includes those before it: space (and Unicode "
        "form), case, punctuation, number (1,000.0 is 1000)",
    )
    read: Literal["auto", "all", "box", "last_line"] = Field(
        "auto", description="What of the answer counts; auto: the box or else all of it"
    )
    references: str | None = Field(
        None, description="The metadata that holds further right answers, one or a list"
    )


def build(config: Config, context: Context) -> Check:
    """The check. Any of several references will do; the evidence names the one that did."""

    def check(record: Record) -> Decision:
        expected = _references(record, config.references)
        if not expected:
            return cannot_tell("no reference answer")
        answer = _read(record.answer, config.read)
        if not answer.strip():
            return Decision(False, "no answer found")
        normalised = normalise(answer, config.level)
        evidence: dict[str, Any] = {"answer": shown(answer), "level": config.level}
        for reference in expected:
            if normalise(reference, config.level) == normalised:
                return Decision(True, "", 1.0, None, {**evidence, "reference": shown(reference)})
        evidence["reference"] = [shown(reference) for reference in expected[:5]]
        reason = f"wrong answer: got {shown(answer)}, expected {shown(expected[0])}"
        return Decision(False, reason, 0.0, None, evidence)

    return check


def normalise(text: str, level: Level) -> str:
    """A text without what does not count at a level.

    >>> normalise("  The Answer:  1,000.0 ", "number")
    'the answer 1000'
    """
    depth = LEVELS.index(level)
    if depth == 0 or len(text) > _LONGEST:
        return text
    text = " ".join(nfkc(visible(text)).split())
    if depth >= 2:
        text = text.casefold()
    if depth >= 4:
        text = " ".join(_number(word) for word in text.split(" "))
    if depth >= 3:
        text = " ".join(_MARK.sub(" ", text).split())
    return text


def _number(word: str) -> str:
    """A number in its shortest form, whatever marks stand around it; another word as it is."""
    bare = word.strip("$€£¥%.,;:!?()[]\"'")
    sign = "-" if word.lstrip("$€£¥([\"'").startswith("-") and not bare.startswith("-") else ""
    if not bare or not _NUMBER.fullmatch(bare):
        return word
    try:
        value = decimal.Decimal(sign + bare.replace(",", ""))
    except decimal.InvalidOperation:
        return word
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def _references(record: Record, key: str | None) -> list[str]:
    more = record.task.metadata.get(key) if key else None
    references: list[Any] = [record.task.answer, *(more if isinstance(more, list) else [more])]
    return [str(text) for text in references if text is not None and str(text).strip()]


def _read(answer: str, read: str) -> str:
    if read in ("auto", "box") and ((contents := final_boxes(answer)) or read == "box"):
        return ", ".join(contents)
    if read == "last_line":
        return answer.rstrip().rpartition("\n")[2]
    return answer
