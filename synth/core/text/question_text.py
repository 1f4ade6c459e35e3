"""Compares questions free of how they are set, and free of the order of words."""

from __future__ import annotations

import re
import unicodedata

# Chinese, Japanese and Korean are written without spaces (or with few): a character is a word.
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"

_STACKED = re.compile(r"([^\w\s\x00-\x7f]{32,})")
# NFKC turns x² into x2; an exponent has to stay one.
_SIGNS = str.maketrans(
    {"²": "^2", "³": "^3", "×": "*", "÷": "/", "·": "*", "⋅": "*", "−": "-", "–": "-", "⁄": "/"}
    | {"≤": "<=", "≥": ">=", "≠": " neq ", "√": " sqrt ", "∞": " infty ", "°": "^circ"}
    | {"∠": " angle ", "△": " triangle "}
)
# LaTeX that means the same as something shorter, in lower case; set to a blank, nothing at all.
_COMMANDS = {
    **dict.fromkeys(("left", "right", "big", "bigg", "displaystyle", "quad", "qquad"), " "),
    **dict.fromkeys(("text", "textbf", "textit", "mathrm", "mathbf", "mbox"), " "),
    **dict.fromkeys(("dots", "ldots", "cdots", "dotsc", "dotsb"), " "),
    **dict.fromkeys(("times", "cdot"), " * "),
    **dict.fromkeys(("le", "leq"), " <= "),
    **dict.fromkeys(("ge", "geq"), " >= "),
    "div": " / ",
    "ne": " neq ",
}
_COMMAND = re.compile(r"\\([a-z]+)")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,(?:\\!)?|\{,\}|\\[,!])\d{3})+(?!,?\d)")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_BARE_POINT = re.compile(r"(?<![\w.)\]}])\.(?=\d)")
_FRACTION = re.compile(r"\\[cdt]?frac(?![a-z])\s*([^\W_]|\\[a-z]+|(?=\{))?|\\.|[{}]", re.DOTALL)
_LONE_GREEK = re.compile(r"(?<![^\W\d_])[α-ω](?![^\W\d_])")
_GREEK = {
    letter: unicodedata.name(letter).rpartition(" ")[2].lower().replace("lamda", "lambda")
    for letter in map(chr, range(ord("α"), ord("ω") + 1))
}
_TOKEN = re.compile(rf"\d+(?:\.\d+)?|[{CJK}]|[^\W\d_{CJK}]+|<=|>=|[-+*/^=<>%]")


def nfkc(text: str) -> str:
    """Returns the text in Unicode's form NFKC (one width, no ligatures), in linear time.

    Normalising takes the square of the length of a run of combining marks, and hostile ones are a
    megabyte long; runs that no script has stay as they are.
    """
    if text.isascii():
        return text
    parts = _STACKED.split(text)
    parts[::2] = [unicodedata.normalize("NFKC", part) for part in parts[::2]]
    return "".join(parts)


def normalise_question(text: str) -> list[str]:
    r"""Returns what a question says, free of how it is set: the same question, the same tokens.

    Case, white space, full-width forms (NFKC), LaTeX spacing and dollars, synonyms such as
    `\dfrac{a}{b}` and `a/b` or `\pi` and `π`, thousands separators and zeros after the decimal
    point do not count. Operators do; brackets and other punctuation do not, so `(1+2)*3` and
    `1+2*3` are the same here: this is made to find what may be the same, not to prove it.

    >>> normalise_question(r"What is $1{,}234 \times 2.50$?")
    ['what', 'is', '1234', '*', '2.5']
    """
    text = nfkc(text.translate(_SIGNS)).casefold()
    if not text.isascii():
        # Case folding can undo NFKC in rare letters, and NFKC can bring signs in.
        text = nfkc(text).translate(_SIGNS)
        text = _LONE_GREEK.sub(lambda letter: f" {_GREEK[letter[0]]} ", text)
    text = _THOUSANDS.sub(lambda number: re.sub(r"\D", "", number[0]), text)
    text = _BARE_POINT.sub("0.", text)
    if "\\" in text:
        text = _COMMAND.sub(lambda c: _COMMANDS.get(c[1], c[0]), _slashes(text))
    tokens = []
    for token in _TOKEN.findall(_HYPHEN.sub(" ", text)):
        if "." in token:
            token = token.rstrip("0").rstrip(".")
        tokens.append("%" if token == "percent" else token)
    return tokens


def question_key(text: str) -> str:
    """Returns one text for all orders of a question's tokens, to keep them on one side of a split.

    `12 + 34` and `34 + 12` have one key; so have `12 - 34` and `34 - 12`, which are not the same
    question, but whoever trains on the one has seen most of the other.

    >>> question_key("12 + 34") == question_key("34+12")
    True
    """
    return " ".join(sorted(normalise_question(text)))


def _slashes(text: str) -> str:
    r"""Writes every `\frac{a}{b}` as `{a} / {b}`. One pass, so hostile nesting costs no more.

    >>> _slashes(r"\frac{1}{\frac x2}")
    ' {1} / { x / 2}'
    """
    if "frac" not in text:
        return text
    pieces, done = [], 0
    braces: list[bool] = []  # for each open brace, whether it holds a numerator
    numerator = False
    for mark in _FRACTION.finditer(text):
        pieces.append(text[done : mark.start()])
        done, written = mark.end(), mark[0]
        if written == "{":
            braces.append(numerator)
        elif written == "}":
            written = "} / " if braces and braces.pop() else "}"
        elif "frac" in written:
            written = f" {mark[1]} / " if mark[1] else " "
        pieces.append(written)
        numerator = mark[1] == ""
    pieces.append(text[done:])
    return "".join(pieces)
