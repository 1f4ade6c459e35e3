"""Scripts and languages: which letters belong to which, and what language a stretch is in."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import Any

from filters._text.tables import read_table

_TABLE = read_table("languages")
# The letters of each script, as what stands in the brackets of a regular expression.
SCRIPTS: dict[str, str] = _TABLE["scripts"]
_WRITTEN: dict[str, str] = _TABLE["written"]
# The scripts of each language, by its ISO 639-1 code.
LANGUAGES: dict[str, frozenset[str]] = {
    code: frozenset(script for script, codes in _WRITTEN.items() if code in codes.split())
    for codes in _WRITTEN.values()
    for code in codes.split()
}
# Scripts whose language the letters alone do not tell.
_SHARED = {script for script, codes in _WRITTEN.items() if len(codes.split()) > 1} - {"Han"}
# Codes of the identifier that are no languages of their own here.
_VARIANTS = {"nn": "no", "nb": "no"}
_SURROGATES = re.compile("[\ud800-\udfff]")

# A Chinese or Japanese character is a word.
_CJK = SCRIPTS["Han"] + SCRIPTS["Kana"]
WORD = re.compile(rf"[{_CJK}]|[^\W\d_{_CJK}]+")
_ASCII_WORD = re.compile("[A-Za-z]+")
_ENGLISH = frozenset(_TABLE["english"]["words"].split())
ENGLISH_ASKS = frozenset(_TABLE["english"]["asks"].split())
FUNCTION_NAMES = frozenset(_TABLE["functions"]["words"].split())


def script_of(text: str) -> str | None:
    """The script that most letters of a text are in; None where there is no letter.

    Chinese characters among kana are Japanese writing: kana win from a tenth of both on.
    """
    if text.isascii():
        return "Latin" if re.search("[A-Za-z]", text) else None
    counts = {script: len("".join(runs(script).findall(text))) for script in SCRIPTS}
    if counts["Kana"] * 10 >= counts["Han"] + counts["Kana"]:
        counts["Kana"] += counts["Han"]
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else None


@cache
def runs(*scripts: str) -> re.Pattern[str]:
    """Finds runs of the letters of these scripts."""
    return re.compile(f"[{''.join(SCRIPTS[script] for script in scripts)}]+")


def language_of(script: str) -> str | None:
    """The language of a script that one language alone is written in."""
    return None if script in _SHARED else _WRITTEN[script].split()[0]


def is_plain_english(text: str) -> bool:
    """Whether a stretch is English beyond doubt, by its function words; False says nothing.

    Two of them, and 15% of the words: 79% of 4,000 English sentences of mathematics have that,
    and one of 8,210 sentences in 20 other languages (bench/accuracy/identifiers.py).
    """
    words = text.lower().split()
    known = sum(word in _ENGLISH for word in words)
    return known >= 2 and known >= 0.15 * len(words)


def count_words(text: str) -> int:
    """How many words a text has."""
    return len((_ASCII_WORD if text.isascii() else WORD).findall(text))


def likeliest(text: str) -> tuple[str, float]:
    """The likeliest language of a text in a script that several share, and its chance."""
    code, chance = _identifier().classify(_readable(text))
    return _VARIANTS.get(code, code), float(chance)


def chance_of(text: str, languages: Collection[str]) -> float:
    """The chance that a text is in one of these languages."""
    ranked = _identifier().rank(_readable(text))
    return float(sum(p for code, p in ranked if _VARIANTS.get(code, code) in languages))


def _readable(text: str) -> str:
    return _SURROGATES.sub(" ", text.lower())


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = set(identifier.nb_classes)
    identifier.set_languages([c for c in (*LANGUAGES, *_VARIANTS, "zxx") if c in known])
    return identifier
