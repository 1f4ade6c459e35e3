"""Drops traces in another language than their question, or that mix languages.

DeepSeek-R1 (arXiv 2501.12948) drops chains of thought with mixed languages (section 2.3.3), and
its reward for one language is the share of words that are in the wanted one (section 2.3.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator

from filters._text import languages as _languages
from filters._text.languages import LANGUAGES, SCRIPTS, WORD, count_words
from filters._text.prose import blanked, clip
from filters.base import Check, Context, Figures, FilterConfig, Measures, requires
from synth.core.errors import nearest
from synth.core.record import Record

# Letters of a stretch that is identified, and of its words in lower case, which names are not.
_LETTERS, _LOWER = 30, 15
# Under this chance of the expected language a stretch is in another one. That takes none of 4,000
# English sentences of 30 letters, and 99.6% of 8,210 others (bench/accuracy/identifiers.py).
_CHANCE = 0.05
# What a question's language is taken for needs this chance, and letters.
_SURE, _QUESTION_LETTERS = 0.7, 20
_HEAD = 2000
# So much of a question is read; each stretch is looked for in it.
_LONGEST_QUESTION = 20_000
_LONGEST_STRETCH = 400
_SHOWN = 5
_END = re.compile(r"(?<=[.!?;:])\s+|\n+")
# A run of Latin words in a text of another script, and its words that are no symbols.
_LATIN_RUN = re.compile(
    r"(?<![A-Za-z])[A-Za-z]{1,30}(?:[ \d.,:'’+*/=()$%-]{1,16}[A-Za-z]{1,30}){2,}"
)
_LATIN_WORD = re.compile(r"(?<![A-Za-z])[a-z]{3,}(?![A-Za-z])")
# Where so much of a sentence is these signs it is code without a fence, or a formula.
_SIGN = re.compile(r"""[=()\[\]{}<>_*+/\\|"#%]|(?<![^\W\d_])'|'(?![^\W\d_])""")
_SIGNS = 0.12
# Greek letters are symbols; from so many in a row on they are words.
_GREEK_WORD = 4


class Config(FilterConfig):
    """Options of `language`."""

    measures: ClassVar[Measures] = {
        "reasoning": "reasoning in another language",
        "answer": "answer in another language",
        "mixed": "mixed languages",
    }

    expected: str | list[str] = Field(
        "same_as_question",
        description="The language: `same_as_question`, an ISO 639-1 code, or several codes",
    )
    parts: list[Literal["reasoning", "answer"]] = Field(
        ["reasoning", "answer"], min_length=1, description="What is looked at"
    )
    reasoning_max: float | None = Field(
        0.5, ge=0, le=1, description="Largest share of the reasoning's words in another language"
    )
    answer_max: float | None = Field(
        0.5, ge=0, le=1, description="Largest share of the answer's words in another language"
    )
    mixed_max: float | None = Field(
        0, ge=0, description="Most stretches in another language, reasoning and answer together"
    )

    @field_validator("expected")
    @classmethod
    def _known(cls, expected: str | list[str]) -> str | list[str]:
        codes = [expected] if isinstance(expected, str) else expected
        if not codes:
            raise ValueError("name at least one language")
        for code in codes:
            if code not in LANGUAGES and (code != "same_as_question" or codes is expected):
                raise ValueError(f"unknown language {code!r}{nearest(code, LANGUAGES)}")
        return expected


class Stretch(NamedTuple):
    """A stretch in another language: its place, its language or script, its words."""

    start: int
    end: int
    language: str
    words: int


check = requires("py3langid", "language")


def build(config: Config, context: Context) -> Check:
    """The measurement: shares of words in another language, and how many stretches of it.

    Formulas, code and names of LaTeX commands are not looked at. A stretch is a run of letters of
    a script that the expected language is not written in, or a sentence of at least 30 letters in
    the expected script that is in another language. What stands in the question does not count.

    Where the question is too short to tell its language, the reasoning's own (else the answer's)
    is the expected one: mixing is still seen, a change from the question is not. Where that is
    unknown too there are no figures.
    """
    fixed = None
    if config.expected != "same_as_question":
        codes = [config.expected] if isinstance(config.expected, str) else config.expected
        fixed = tuple(sorted(set(codes)))

    def measure(record: Record) -> Figures:
        texts = {"reasoning": record.reasoning or "", "answer": record.answer}
        prose = {part: blanked(texts[part]) for part in config.parts}
        question = record.task.question[:_LONGEST_QUESTION]
        expected = fixed or _language_of_question(question[: 2 * _HEAD])
        for part in prose:
            expected = expected or _language(prose[part][:_HEAD])
        values: dict[str, float | None] = {"reasoning": None, "answer": None, "mixed": None}
        if not expected:
            return Figures(values)
        shown: list[dict[str, Any]] = []
        for part, text in prose.items():
            if not (words := count_words(text)):
                continue
            stretches = foreign(text, expected, question)
            values[part] = min(1.0, sum(stretch.words for stretch in stretches) / words)
            values["mixed"] = (values["mixed"] or 0) + len(stretches)
            for start, end, language, _ in stretches[:_SHOWN]:
                place = {"part": part, "start": start, "end": end, "language": language}
                shown.append({**place, "text": clip(texts[part][start:end])})
        return Figures(values, {"expected": list(expected), "stretches": shown[:_SHOWN]})

    return measure


def foreign(prose: str, expected: tuple[str, ...], question: str = "") -> list[Stretch]:
    """The stretches of prose that are in none of the expected languages, in order.

    What stands in the question does not count, nor does a stretch of which most words do, if the
    question itself is in an expected language.
    """
    scripts = frozenset[str]().union(*(LANGUAGES[code] for code in expected))
    asked: set[str] = set()
    if set(_language_of_question(question[: 2 * _HEAD])) <= set(expected):
        asked = {word.casefold() for word in WORD.findall(question)}
    stretches: list[Stretch] = []
    if not prose.isascii():
        stretches += _in_other_scripts(prose, scripts)
    if "Latin" not in scripts:
        stretches += _latin_runs(prose)
    for script in scripts:
        if _languages.language_of(script) is None:
            stretches += _in_other_languages(prose, script, expected)
    return sorted(s for s in stretches if not _is_asked(prose[s.start : s.end], asked, question))


def _in_other_scripts(prose: str, scripts: frozenset[str]) -> Iterator[Stretch]:
    for run in _strangers(scripts).finditer(prose):
        script = _languages.script_of(run[0]) or "unknown"
        if script == "Greek" and all(len(w) < _GREEK_WORD for w in WORD.findall(run[0])):
            continue
        yield Stretch(run.start(), run.end(), script, count_words(run[0]))


@lru_cache(maxsize=64)
def _strangers(scripts: frozenset[str]) -> re.Pattern[str]:
    """Runs of the letters of all scripts but these and Latin, over spaces and marks."""
    letters = "".join(SCRIPTS[script] for script in SCRIPTS if script not in {*scripts, "Latin"})
    marks = r"\s\d.,:'’\-—()，。、：（）“”《》！？"
    return re.compile(f"[{letters}]+(?:[{marks}]{{1,4}}[{letters}]+)*")


def _latin_runs(prose: str) -> Iterator[Stretch]:
    for run in _LATIN_RUN.finditer(prose):
        lower = [w for w in _LATIN_WORD.findall(run[0]) if w not in _languages.FUNCTION_NAMES]
        if len(lower) >= 2 and not _is_code(run[0]):
            yield Stretch(run.start(), run.end(), "Latin", count_words(run[0]))


def _in_other_languages(prose: str, script: str, expected: tuple[str, ...]) -> Iterator[Stretch]:
    """Sentences in one of the expected scripts, in another language than the expected ones."""
    letters = _languages.runs(script)
    for start, end in _sentences(prose, letters):
        text = prose[start:end]
        if script == "Latin" and "en" in expected and _languages.is_plain_english(text):
            continue
        if _is_code(text):
            continue
        if script == "Latin":
            lower = (word for word in WORD.findall(text) if len(word) > 1 and word.islower())
            if sum(map(len, lower)) < _LOWER:
                continue
        words = " ".join(letters.findall(text))
        language, _ = _languages.likeliest(words)
        if language in expected or language == "zxx":  # zxx: no language at all
            continue
        if _languages.chance_of(words, expected) < _CHANCE:
            yield Stretch(start, end, language, count_words(text))


def _sentences(prose: str, letters: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Sentences and lines with letters enough; shorter ones that follow each other are joined."""
    begin = position = count = 0
    for mark in [*_END.finditer(prose), None]:
        end = mark.start() if mark else len(prose)
        while position < end:
            stop = min(end, position + _LONGEST_STRETCH)
            added = len("".join(letters.findall(prose, position, stop)))
            if added >= _LETTERS:
                begin, count = position, 0
            count += added
            position = stop
            if count >= _LETTERS:
                yield position - len(prose[begin:position].lstrip()), position
                begin, count = position, 0
        position = mark.end() if mark else end
        if not count:
            begin = position


def _is_code(text: str) -> bool:
    return len(_SIGN.findall(text)) > _SIGNS * len("".join(text.split()))


def _is_asked(text: str, asked: set[str], question: str) -> bool:
    """Whether a stretch quotes the question: as it stands there, or most of its words do."""
    if text in question:
        return True
    words = WORD.findall(text)
    return 2 * sum(word.casefold() in asked for word in words) > len(words)


@lru_cache(maxsize=4096)
def _language_of_question(question: str) -> tuple[str, ...]:
    return _language(blanked(question)[:_HEAD])


def _language(prose: str) -> tuple[str, ...]:
    """The language of a text, or nothing where that cannot be told."""
    script = _languages.script_of(prose)
    if script is None:
        return ()
    if (only := _languages.language_of(script)) is not None:
        return (only,)
    words = " ".join(_languages.runs(script).findall(prose))
    if script == "Latin" and (
        _languages.is_plain_english(words)
        or words.partition(" ")[0].lower() in _languages.ENGLISH_ASKS
    ):
        return ("en",)
    if len(words) < _QUESTION_LETTERS:
        return ()
    language, chance = _languages.likeliest(words)
    return (language,) if chance >= _SURE and language in LANGUAGES else ()
