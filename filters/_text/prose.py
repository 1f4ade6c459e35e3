r"""A text's prose: what is left of it outside mathematics and code."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from functools import lru_cache
from typing import Literal

Kind = Literal["math", "code"]

_ENVIRONMENTS = (
    "equation|align|aligned|alignat|gather|gathered|multline|eqnarray|displaymath|math|array|cases|"
    "split|matrix|pmatrix|bmatrix|vmatrix|Bmatrix|Vmatrix|smallmatrix|tabular|asy|tikzpicture"
)
_OPENS = {
    "```": ("```", "code"),
    "~~~": ("~~~", "code"),
    "`": ("`", "code"),
    "[asy]": ("[/asy]", "code"),
    r"\(": (r"\)", "math"),
    r"\[": (r"\]", "math"),
    "$$": ("$$", "math"),
    "$": ("$", "math"),
    "<<": (">>", "math"),  # the calculator's marks in GSM8K
    "begin": ("end", "math"),
}
# One class in front, so that what cannot be a mark is skipped fast.
_MARK = re.compile(
    r"[`~\[\\$<>\n](?:(?<=`)(?:``)?|(?<=~)~~|(?<=\[)/?asy\]|(?<=\$)\$?|(?<=<)<|(?<=>)>"
    r"|(?<=\n)(?:\s{0,200}?\n)?|(?<=\\)(?:(?:begin|end)\{(?:" + _ENVIRONMENTS + r")\*?\}|.))"
)
_KEPT_BLANK = re.compile(r"[^\n]")
# LaTeX outside of formulas: the name of a command is no word of any language.
_SURROGATES = re.compile("[\ud800-\udfff]")
_COMMAND = re.compile(r"\\[A-Za-z]{1,40}\*?")


def formulas(text: str) -> list[tuple[int, int, Kind]]:
    r"""Where a text's formulas and code stand: start, end and kind, in order, none in another.

    Formulas are LaTeX's and the calculator marks of GSM8K (`<<1+1=2>>`); code is Markdown's, and
    Asymptote between `[asy]` tags. A dollar opens and closes a formula as Pandoc has it, so that
    `$5 and $10` are prices: what follows the first and what precedes the last is no space, no digit
    follows the last, and neither a dollar nor an empty line is between. Of what never closes only a
    fence of code counts, to the end of the text.

    >>> formulas("for $x$, pay $5 or $10")
    [(4, 7, 'math')]
    """
    marks = [(found.start(), found.end(), _name(found[0])) for found in _MARK.finditer(text)]
    ends: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for start, end, name in marks:
        ends[name].append((start, end))
    found: list[tuple[int, int, Kind]] = []
    position = 0
    for start, end, name in marks:
        spaced = name == "$" and text[end : end + 1].isspace()
        if start < position or name not in _OPENS or spaced:
            continue
        closer, kind = _OPENS[name]
        close = _next(ends[closer], end)
        # A code span ends with its line, a formula in the text with its paragraph.
        stop = _next(ends["line"], end) if name == "`" else None
        gap = _next(ends["gap"], end) if name in ("`", "$", r"\(", "<<") else None
        limits = [limit[0] for limit in (stop, gap) if limit]
        if name in ("```", "~~~") and close is None:
            close = (len(text), len(text))
        if close is None or any(close[0] > limit for limit in limits):
            continue
        if name == "$" and not _is_formula(text, end, *close):
            continue
        found.append((start, close[1], kind))  # type: ignore[arg-type]
        position = close[1]
    return found


@lru_cache(maxsize=16)
def blanked(text: str, kinds: tuple[Kind, ...] = ("math", "code"), commands: bool = True) -> str:
    """The text with its formulas and code as spaces; it is as long, so places stay what they are.

    `kinds` says what is blanked, and `commands` whether the names of LaTeX commands are as well.

    >>> blanked("so $x=1$ and `y`.")
    'so       and    .'
    """
    pieces, position = [], 0
    for start, end, kind in formulas(text):
        if kind in kinds:
            pieces += [text[position:start], _KEPT_BLANK.sub(" ", text[start:end])]
            position = end
    prose = "".join(pieces) + text[position:]
    return _COMMAND.sub(lambda name: " " * len(name[0]), prose) if commands else prose


def _name(mark: str) -> str:
    if mark[0] == "\n":
        return "gap" if len(mark) > 1 else "line"
    return mark[1:].partition("{")[0] if mark.endswith("}") and len(mark) > 2 else mark


def _is_formula(text: str, start: int, end: int, behind: int) -> bool:
    """Whether what two dollars enclose is a formula, and not what stands between two prices."""
    edges = text[start : start + 1], text[end - 1 : end]
    spaced = start >= end or any(map(str.isspace, edges))
    return not spaced and not text[behind : behind + 1].isdigit()


def _next(places: list[tuple[int, int]], position: int) -> tuple[int, int] | None:
    index = bisect_left(places, (position, 0))
    return places[index] if index < len(places) else None


def clip(text: str, most: int = 80) -> str:
    """A piece of a text as evidence shows it: one line, cut, without lone surrogates."""
    line = " ".join(text[: 4 * most].split())
    line = _SURROGATES.sub("\ufffd", line)
    return line if len(line) <= most else line[: most - 1] + "…"
