"""What runs in a worker of `math_answer`: the library math-verify, which may hang or crash there.

Its own limits in time are turned off: they are signals, which a big multiplication does not hear
and which pass for a wrong answer.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import product
from typing import Any, NamedTuple

from synth.text import CJK

# Below this size the library's comparison, which rounds to six decimals, calls all numbers equal.
_SMALL = 1e-3
_SAME = 1e-5

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3002: " ; ", 0x2212: "-"}
_UNIT = re.compile(rf"(?<=[\d}}%])\s*[{CJK}]+\s*$")
_SCRIPT = re.compile(rf"[{CJK}]+")
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\overline\s*\{\s*(\d+)\s*\}")


class Outcome(NamedTuple):
    """What came of a comparison.

    Attributes:
        status: `correct`, `wrong`, `nothing found`, or else why nobody can tell.
        got: The answer as it was understood.
    """

    status: str
    got: str


def prepare() -> None:
    """Imports math-verify and has it parse once, so that the first call does not pay for it."""
    import logging

    logging.disable(logging.CRITICAL)  # it logs whatever it cannot parse
    _parse("$1$")


def compare(reference: str, boxes: list[str], text: str) -> Outcome:
    """Compares an answer with its reference.

    Args:
        reference: The reference answer without what surrounds it.
        boxes: What the final boxes hold, one for most answers.
        text: Where there is no box, the end of the answer, to find its last expression in.
    """
    gold = _parse_reference(_readable(reference))
    if boxes:
        contents = [_UNIT.sub("", _readable(box)) for box in boxes]
        answer = _parse(" and ".join(rf"$\boxed{{{content}}}$" for content in contents))
    else:
        # Its patterns for plain numbers want blanks around them, which Chinese has not; the
        # semicolon keeps two numbers from being read as one.
        answer = _parse(_SCRIPT.sub(" ; ", _readable(text)))
    if not answer:
        return Outcome("answer not understood" if boxes else "nothing found", " and ".join(boxes))
    got = next((item for item in answer if isinstance(item, str)), "")
    failed = False
    for expected, given in product(gold, answer):
        try:
            if _equal(expected, given):
                return Outcome("correct", got)
        except MemoryError:
            return Outcome("out of memory", got)
        except (Exception, RecursionError):
            failed = True
    if all(isinstance(item, str) for item in gold):
        return Outcome("reference answer not understood", got)
    if all(isinstance(item, str) for item in answer):
        return Outcome("answer not understood", got)
    return Outcome("comparison failed" if failed else "wrong", got)


def _readable(text: str) -> str:
    r"""A text in the forms that the library reads.

    It takes `0.\overline{3}` for 0 and `\varnothing` for a variable.
    """
    text = text.translate(_FULL_WIDTH).replace(r"\varnothing", r"\emptyset")
    return _REPEATING.sub(_fraction, text)


def _fraction(match: re.Match[str]) -> str:
    whole, start, period = match.groups()
    value = Fraction(int(whole or 0)) + Fraction(
        int(start + period) - int(start or 0), (10 ** len(period) - 1) * 10 ** len(start)
    )
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _parse_reference(reference: str) -> list[Any]:
    """The reference as expressions, whether or not its author wrote dollars around it."""
    reference = reference.replace(r"\$", "")
    if "$" in reference.strip("$") or r"\(" in reference or r"\[" in reference:
        return _parse(reference)
    bare = _UNIT.sub("", reference.strip("$ \n"))
    return _parse(rf"$\boxed{{{bare}}}$") or _parse(f"${bare}$") or _parse(bare)


def _parse(text: str) -> list[Any]:
    """What the library finds in a text: the expression and its source; nothing where it fails."""
    from math_verify import parse

    found: list[Any] = parse(text, parsing_timeout=None)
    return found


def _equal(expected: Any, given: Any) -> bool:
    from math_verify import verify

    if not verify(
        expected,
        given,
        allow_set_relation_comp=True,  # x > 3 is the interval (3, oo)
        timeout_seconds=None,
        raise_on_error=True,
    ):
        return False
    if getattr(expected, "is_number", False) and getattr(given, "is_number", False):
        try:
            a, b = complex(expected), complex(given)
        except (TypeError, ValueError, OverflowError):  # not a number after all, or a huge one
            return True
        if 0 < max(abs(a), abs(b)) < _SMALL:
            return abs(a - b) <= _SAME * max(abs(a), abs(b))
    return True
