"""Measures how much of an answer is a chat's manners: `Sure!`, `I hope this helps`, `Let me know`.

The table of phrases was made by hand; no sentence of 3,300 sound traces and solutions is one of
them. What refuses or speaks of instructions is the filter `refusal`.
"""

from __future__ import annotations

import functools
import re
from typing import ClassVar

from pydantic import Field

from filters._text.tables import any_of, read_table
from filters._text.words import count_words
from filters.base import Check, Context, Figures, FilterConfig, Measures
from synth.core.record import Record

_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？]*|[.!?。！？]+")
_FIRST, _LAST = 2, 5
_CLIP = 80
_APOSTROPHE = str.maketrans("’", "'")
_MARKS = " \t*_#>\"'“”-"


class Config(FilterConfig):
    """Options of `boilerplate`."""

    measures: ClassVar[Measures] = {"sentences": "boilerplate", "share": "boilerplate"}

    sentences_max: int | None = Field(0, ge=0, description="Most sentences of boilerplate")
    share_max: float | None = Field(
        None, ge=0, le=1, description="Largest share of the answer's words in such sentences"
    )


def build(config: Config, context: Context) -> Check:
    """The check. It reads the answer alone, in English and Chinese.

    A greeting (`Sure!`, `Here is the solution`) counts as one of the first two sentences, an offer
    (`I hope this helps`, `Let me know if`) also as one of the last five. The share is of words,
    marks aside.
    """
    greeting, offer = _phrases("greetings"), _phrases("offers")

    def check(record: Record) -> Figures:
        sentences = list(_SENTENCE.finditer(record.answer))
        word_count = 0
        matches: list[str] = []
        for index, match in enumerate(sentences):
            if _FIRST <= index < len(sentences) - _LAST:
                continue
            sentence = match[0].translate(_APOSTROPHE).strip(_MARKS)
            if offer.search(sentence) or (index < _FIRST and greeting.match(sentence)):
                matches.append(match[0].strip()[:_CLIP])
                word_count += count_words(match[0])
        share = word_count / max(1, count_words(record.answer)) if matches else 0.0
        evidence = {"sentences": matches} if matches else None
        return Figures({"sentences": len(matches), "share": share}, evidence)

    return check


@functools.cache
def _phrases(group: str) -> re.Pattern[str]:
    return re.compile(any_of(read_table("boilerplate")[group]), re.IGNORECASE)
