"""Questions as they are compared: free of how they are set, and free of the order of words."""

from __future__ import annotations

import re
import unicodedata

# Chinese, Japanese and Korean are written without spaces (or with few): a character is a word.
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"

# NFKC turns x² into x2; an exponent has to stay one.
_SIGNS = str.maketrans({"²": "^2", "³": "^3", "×": "*", "÷": "/", "·": "*", "−": "-", "–": "-"})
# LaTeX that means the same as something shorter, in lower case; set to a blank, nothing at all.
_COMMANDS = {
    **dict.fromkeys(("left", "right", "big", "bigg", "displaystyle", "quad", "qquad"), " "),
    **dict.fromkeys(("text", "textbf", "textit", "mathrm", "mathbf", "mbox"), " "),
    **dict.fromkeys(("dfrac", "tfrac"), " frac "),
    **dict.fromkeys(("times", "cdot"), " * "),
    **dict.fromkeys(("le", "leq"), " <= "),
    **dict.fromkeys(("ge", "geq"), " >= "),
    "div": " / ",
}
_COMMAND = re.compile(r"\\([a-z]+)")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,|\{,\}|\\,|\\!)\d{3})+(?![\d,])")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_TOKEN = re.compile(rf"\d+(?:\.\d+)?|[{CJK}]|[^\W\d_{CJK}]+|<=|>=|[-+*/^=<>%]")


def normalise_question(text: str) -> list[str]:
    r"""What a question says, free of how it is set: the same question gives the same tokens.

    Case, white space, full-width forms (NFKC), LaTeX spacing and dollars, synonyms such as
    `\dfrac` and `\times`, thousands separators and zeros after the decimal point do not count.
    Operators do; brackets and other punctuation do not, so `(1+2)*3` and `1+2*3` are the same
    here: this is made to find what may be the same, not to prove it.

    >>> normalise_question(r"What is $1{,}234 \times 2.50$?")
    ['what', 'is', '1234', '*', '2.5']
    """
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).casefold()
    # Case folding can undo NFKC in rare letters, and NFKC can bring signs in.
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    text = _THOUSANDS.sub(lambda number: re.sub(r"\D", "", number[0]), text)
    text = _COMMAND.sub(lambda command: _COMMANDS.get(command[1], command[0]), text)
    tokens = []
    for token in _TOKEN.findall(_HYPHEN.sub(" ", text)):
        if "." in token:
            token = token.rstrip("0").rstrip(".")
        tokens.append("%" if token == "percent" else token)
    return tokens


def question_key(text: str) -> str:
    """One text for all orders of a question's tokens, to keep them on one side of a split.

    `12 + 34` and `34 + 12` have one key; so have `12 - 34` and `34 - 12`, which are not the same
    question, but whoever trains on the one has seen most of the other.

    >>> question_key("12 + 34") == question_key("34+12")
    True
    """
    return " ".join(sorted(normalise_question(text)))
