r"""Final answers as text: freed of what never changes them, and put as math-verify reads them.

All of it is linear in the text: no rule has a quantifier within a quantifier.
"""

from __future__ import annotations

import re
from fractions import Fraction

from filters._text.tables import read_table
from synth.core.text.question_text import CJK

_INVISIBLE = dict.fromkeys(
    [0, 0xAD, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A)]
)
_SIGNS = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {
    ord(sign): text for sign, text in read_table("math")["signs"].items()
}
_NUMBER = r"[+-]?\d{1,400}(?:\.\d{1,400})?"
_DIGIT_GROUPS = re.compile(r"[+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_SCIENTIFIC = re.compile(rf"({_NUMBER})[eE]([+-]?\d{{1,4}})")
_ROOT = re.compile(r"√\s*(?:(\d{1,400}|[A-Za-z])|(?=[({]))")
_EMPTY_SET = re.compile(r"\\\{\s*\\\}")
_PERCENT_OF = re.compile(rf"百分之({_NUMBER})")
# A label before a value, as in `\textbf{(C) } 12`; a phrase, as in `\text{the answer is } 12`.
_LABEL = re.compile(r"\s*\\text(?:bf|rm)?\{\s*(?:\([A-Z]\)|[A-Z][.:)])\s*\}\s*(?=\S)")
_PHRASE = re.compile(r"\s*\\text\{[^{}]{0,60}?(?:\bis|[:=])\s*\}\s*(?=\S)")
# A word that names what is counted; words that say how much, or join two values, are none.
_COUNTED = re.compile(
    rf"({_NUMBER}|\\[dt]?frac\{{\d+\}}\{{\d+\}})\s+"
    r"(?!(?:pi|sqrt|sin|cos|tan|log|ln|over|and|or|to|mod|percent|million|billion|thousand|hundred|"
    r"dozen|trillion|choose|times|plus|minus)\b)[A-Za-z]{4,20}\.?"
)
_UNIT = re.compile(rf"(?<=[\d}}%]) ?[{CJK}]+$")
_LEAD = re.compile(r"\s*(?:共|一共|总共|共有|约|还剩|需要?|答案?[是为:]?|等于|是|为)\s*(?=[\d\\-])")
_QUOTED = re.compile(r"\s*\\(?:text|mathrm|textbf|mathbf)\{\s*([+-]?\d[^{}]{0,80})\}\s*")
_DEGREES = re.compile(
    r"\\(sin|cos|tan|cot|sec|csc)\s*[({]?\s*(\d{1,6})\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)\s*[)}]?"
)
_SCRIPT = re.compile(rf"[{CJK}]+[:：]?")
_OR = re.compile(rf"(?<=[^{CJK}]) ?[和或与] ?(?=[^{CJK}])")
_OVERLINE = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\overline\s*\{\s*(\d+)\s*\}")
_DOT = re.compile(
    r"(?<![\d.])(\d*)\.(\d*)\\dot\s*\{?\s*(\d)\s*\}?(?:(\d*)\\dot\s*\{?\s*(\d)\s*\}?)?"
)
_BRACKET = re.compile(r"(?<![\d.])(\d*)\.(\d*)\((\d+)\)")
_BASED = re.compile(r"\(?([0-9A-Za-z]{1,400})\)?_\{?(\d{1,2})\}?")

_RATIONAL = re.compile(
    r"([+-]?)(?:([0-9]{1,200})/([0-9]{1,200})"
    r"|([0-9]{0,200})\\frac(?:\{([0-9]{1,200})\}\{([0-9]{1,200})\}|([0-9])([0-9]))"
    r"|([0-9]{1,400}\.?[0-9]{0,400}|\.[0-9]{1,400}))"
)

_NOISE = re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[!,;: ]|\\?\$")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textrm)\{([^{}]*)\}")
_LOOSE_BLANK = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+")


def visible(text: str) -> str:
    """A text without the characters that nobody sees: NUL, joiners, marks of direction."""
    return text.translate(_INVISIBLE)


def plain(text: str) -> str:
    r"""A short answer free of typesetting that never changes what it is.

    >>> plain(r"$\dfrac{1}{2}$.") == plain(r"\frac{1}{2}")
    True
    """
    text = _NOISE.sub("", text.replace("dfrac", "frac").replace("tfrac", "frac"))
    text = text.replace("{,}", ",").translate(_SIGNS)
    text = _LOOSE_BLANK.sub("", _TEXT.sub(r"\1", text)).strip().rstrip(".")
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


def readable(text: str) -> str:
    r"""A text in the forms that math-verify reads.

    It takes `0.\overline{3}` for 0 and `\varnothing` for a variable, and knows no full-width digit.

    >>> readable("０.\\overline{3}")
    '\\frac{1}{3}'
    """
    text = visible(text).translate(_SIGNS).replace(r"\varnothing", r"\emptyset")
    text = _EMPTY_SET.sub(r"\\emptyset", text)
    text = _PERCENT_OF.sub(r"\1\\%", text)
    text = _ROOT.sub(lambda found: rf"\sqrt{{{found[1]}}}" if found[1] else r"\sqrt", text)
    text = _DEGREES.sub(r"\\\1\\left(\\frac{\2\\pi}{180}\\right)", text)
    for repeating in (_OVERLINE, _DOT, _BRACKET):
        text = repeating.sub(_fraction, text)
    return text


def content(box: str) -> str:
    """What a box, or a reference, says: `readable`, and without label, phrase and unit."""
    text = _OR.sub(", ", " ".join(readable(box).split()))
    text = _LABEL.sub("", _PHRASE.sub("", text, count=1), count=1)
    if quoted := _QUOTED.fullmatch(text):
        text = quoted[1]
    text = _UNIT.sub("", _LEAD.sub("", text, count=1)).strip()
    if _DIGIT_GROUPS.fullmatch(text):
        return text.replace(" ", "")
    if found := _SCIENTIFIC.fullmatch(text):
        return rf"{found[1]} \times 10^{{{int(found[2])}}}"
    found = _COUNTED.fullmatch(text)
    return found[1] if found else text


def tail(text: str) -> str:
    """The end of an answer without a box, numbers apart from Chinese around them.

    The semicolon keeps two numbers from being read as one.
    """
    return _SCRIPT.sub(" ; ", readable(text))


def based(text: str) -> tuple[int, int] | None:
    r"""The value and the base of a number written with its base, such as `2516_8`."""
    match = _BASED.fullmatch(text.strip().strip("$"))
    if match is None or not 2 <= (base := int(match[2])) <= 36:
        return None
    try:
        return int(match[1], base), base
    except ValueError:
        return None


def rational(text: str) -> Fraction | None:
    r"""The value of a short answer that is a number: whole, decimal, a fraction, or mixed.

    >>> rational(r"-1\frac{1}{2}")
    Fraction(-3, 2)
    """
    found = _RATIONAL.fullmatch(text)
    if found is None:
        return None
    sign, a, b, whole, c, d, e, f, decimal = found.groups()
    if decimal:
        value = Fraction(decimal)
    else:
        above, below = int(a or c or e), int(b or d or f)
        if below == 0:
            return None
        value = int(whole or 0) + Fraction(above, below)
    return -value if sign == "-" else value


def _fraction(found: re.Match[str]) -> str:
    whole, start, *period = found.groups()
    repeated = "".join(digits or "" for digits in period)
    if len(start) + len(repeated) > 200:
        return found[0]
    value = Fraction(int(whole or 0)) + Fraction(
        int(start + repeated) - int(start or 0), (10 ** len(repeated) - 1) * 10 ** len(start)
    )
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
