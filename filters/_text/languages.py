"""Scripts and languages: which letters belong to which, and what language a stretch is in."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import Any

_CJK_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u3096\u30a1-\u30fa\u30fc\u31f0-\u31ff\uff66-\uff9d"
# The letters of each script, marks that stand on them included (Unicode's blocks).
SCRIPTS = {
    "Latin": "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff",
    "Greek": "\u0370-\u0373\u0376-\u037d\u0386\u0388-\u03ff\u1f00-\u1fff",
    "Cyrillic": "\u0400-\u0481\u048a-\u052f",
    "Armenian": "\u0531-\u0556\u0560-\u0588",
    "Hebrew": "\u05d0-\u05ea",
    "Arabic": "\u0620-\u065f\u0671-\u06d3\u06fa-\u06ff\u0750-\u077f\u08a0-\u08ff"
    "\ufb50-\ufdcf\ufdf0-\ufdfb\ufe70-\ufefc",
    "Devanagari": "\u0900-\u0963\u0971-\u097f",
    "Bengali": "\u0980-\u09e3\u09f0-\u09f1",
    "Gurmukhi": "\u0a01-\u0a5e\u0a70-\u0a75",
    "Gujarati": "\u0a81-\u0ae3",
    "Odia": "\u0b01-\u0b63",
    "Tamil": "\u0b82-\u0bd7",
    "Telugu": "\u0c00-\u0c63",
    "Kannada": "\u0c80-\u0ce3",
    "Malayalam": "\u0d00-\u0d63",
    "Sinhala": "\u0d81-\u0ddf",
    "Thai": "\u0e01-\u0e3a\u0e40-\u0e4e",
    "Lao": "\u0e81-\u0ecd\u0edc-\u0edf",
    "Tibetan": "\u0f00\u0f40-\u0fbc",
    "Burmese": "\u1000-\u103f\u1050-\u108f",
    "Georgian": "\u10a0-\u10ff",
    "Ethiopic": "\u1200-\u135a",
    "Khmer": "\u1780-\u17d3",
    "Hangul": "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3",
    "Kana": _KANA,
    "Han": _CJK_HAN,
}
_WRITTEN = {
    "Greek": "el",
    "Cyrillic": "ru uk bg be mk sr kk ky mn tg tt ba",
    "Armenian": "hy",
    "Hebrew": "he",
    "Arabic": "ar fa ur ps ug",
    "Devanagari": "hi mr ne sa",
    "Bengali": "bn as",
    "Gurmukhi": "pa",
    "Gujarati": "gu",
    "Odia": "or",
    "Tamil": "ta",
    "Telugu": "te",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Sinhala": "si",
    "Thai": "th",
    "Lao": "lo",
    "Tibetan": "bo",
    "Burmese": "my",
    "Georgian": "ka",
    "Ethiopic": "am",
    "Khmer": "km",
    "Hangul": "ko",
    "Kana": "ja",
    "Han": "zh ja",
    "Latin": "af az bs ca cs cy da de en eo es et eu fi fr fy ga gd gl ha hr ht hu id ig is it jv "
    "la lb lt lv mg ms mt nl no oc om pl pt qu ro rw sk sl so sq sr sv sw tl tr uz vi xh yo zu",
}
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
WORD = re.compile(rf"[{_CJK_HAN}{_KANA}]|[^\W\d_{_CJK_HAN}{_KANA}]+")
_ASCII_WORD = re.compile("[A-Za-z]+")
# Words of English that stand in no other language with these letters as often.
_ENGLISH = frozenset(
    {"the", "of", "and", "that", "with", "this", "we", "which", "from", "are", "have", "then"}
    | {"when", "how", "there", "each", "since", "because", "where", "can", "be", "has", "these"}
    | {"it", "they", "therefore", "thus", "total", "number", "let", "you", "your", "their", "if"}
    | {"not", "must"}
)

# What asks for something in English and in no other language written alike.
ENGLISH_ASKS = frozenset(
    {
        "what",
        "how",
        "find",
        "compute",
        "simplify",
        "evaluate",
        "solve",
        "calculate",
        "prove",
        "show",
    }
)


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


def scripts_of(languages: Collection[str]) -> frozenset[str]:
    """The scripts that these languages are written in."""
    return frozenset[str]().union(*(LANGUAGES[code] for code in languages))


def language_of(script: str) -> str | None:
    """The language of a script that one language is written in, as Chinese characters are."""
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
