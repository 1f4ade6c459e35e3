"""What runs in a worker of `math_answer`: the library math-verify, which may hang or crash there.

Its own limits in time are turned off: they are signals, which a big multiplication does not hear
and which pass for a wrong answer.
"""

from __future__ import annotations

import functools
from itertools import product
from typing import Any, NamedTuple

from filters._text.math import based, content, readable, tail

# Below this size the library's comparison, which rounds to six decimals, calls all numbers equal.
_SMALL = 1e-3
_SAME = 1e-5
_SHOWN = 60
# Beyond these sizes floating point says nothing of a difference.
_FLOAT_MIN, _FLOAT_MAX = 1e-200, 1e200


class Outcome(NamedTuple):
    """What came of a comparison."""

    status: str  # `correct`, `wrong`, `nothing found`, or else why nobody can tell
    got: str  # the answer as it was found in the text
    parsed: tuple[str, str] | None = None  # answer and reference, where both were understood


def prepare() -> None:
    """Imports math-verify and has it parse once, so that the first call does not pay for it."""
    import gc
    import logging

    logging.disable(logging.CRITICAL)  # it logs whatever it cannot parse
    _parse("$1$")
    # What is loaded stays; parsing makes many objects and few circles.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def compare(reference: str, boxes: list[str], text: str) -> Outcome:
    """Compares an answer with its bare reference.

    Read is what its final boxes hold, mostly one; without a box, the last expression in `text`.
    """
    contents = [content(box) for box in boxes]
    if len(boxes) == 1 and (number := based(contents[0])) and (expected := based(reference)):
        return Outcome("correct" if number == expected else "wrong", contents[0])
    bare = reference.strip("$ ")
    percent = len(contents) == 1 and contents[0].endswith("%"), bare.endswith("%")
    if all(percent):
        contents, reference = [_number(contents[0])], _number(bare)
    gold = _parse_reference(reference)
    if boxes:
        answer = _parse(" and ".join(rf"$\boxed{{{box}}}$" for box in contents))
    else:
        answer = _parse(tail(text))
    # A percentage and its number are one, as the library has it; but it reads no (25/2)%.
    if percent == (True, False):
        answer += _parse(rf"$\boxed{{{_number(contents[0])}}}$")
    elif percent == (False, True):
        gold += _parse_reference(_number(bare))
    if not answer:
        return Outcome("answer not understood" if boxes else "nothing found", " and ".join(boxes))
    got = next((item for item in answer if isinstance(item, str)), "")
    said_or = _joined_by_or(" ".join(contents)), _joined_by_or(reference)
    failed = False
    for expected, given in product(gold, answer):
        try:
            if _equal(_union(expected, said_or[1]), _union(given, said_or[0])):
                return Outcome("correct", got, _shown(given, expected))
        except MemoryError:
            return Outcome("out of memory", got)
        except (Exception, RecursionError):
            failed = True
    if not _understood(gold):
        return Outcome("reference answer not understood", got)
    if not _understood(answer):
        return Outcome("answer not understood", got)
    return Outcome("comparison failed" if failed else "wrong", got, _shown(answer[0], gold[0]))


def _number(percentage: str) -> str:
    """A percentage without its sign."""
    return percentage.removesuffix("%").removesuffix("\\").rstrip()


def _understood(parsed: tuple[Any, ...]) -> bool:
    return any(not isinstance(item, str) for item in parsed)


@functools.lru_cache(1024)  # a question's answers come one after another
def _parse_reference(reference: str) -> tuple[Any, ...]:
    """The reference as expressions, whether or not its author wrote dollars around it."""
    reference = readable(reference).replace(r"\$", "")
    if "$" in reference.strip("$") or r"\(" in reference or r"\[" in reference:
        return _parse(reference)
    bare = content(reference.strip("$ \n"))
    for text in (rf"$\boxed{{{bare}}}$", f"${bare}$", bare):
        if _understood(parsed := _parse(text)):
            break
    return parsed


def _parse(text: str) -> tuple[Any, ...]:
    """What the library finds in a text: the expression and its source; nothing where it fails."""
    from math_verify import parse

    return tuple(parse(text, parsing_timeout=None))


def _equal(expected: Any, given: Any) -> bool:
    from math_verify import verify

    if _apart(expected, given):
        return False
    if not verify(
        expected,
        given,
        allow_set_relation_comp=True,  # x > 3 is the interval (3, oo)
        timeout_seconds=None,
        raise_on_error=True,
    ):
        return _as_imaginary(expected, given)
    if getattr(expected, "is_number", False) and getattr(given, "is_number", False):
        try:
            a, b = complex(expected), complex(given)
        except (TypeError, ValueError, OverflowError):  # not a number after all, or a huge one
            return True
        if 0 < max(abs(a), abs(b)) < _SMALL:
            return abs(a - b) <= _SAME * max(abs(a), abs(b))
    return True


def _apart(expected: Any, given: Any) -> bool:
    """Whether two expressions differ in value where it is easily seen.

    The library would simplify their difference, which takes ten times as long. Percentages, which
    equal two values, are left to it.
    """
    from sympy import Expr, I, Rational, UnevaluatedExpr

    if not (isinstance(expected, Expr) and isinstance(given, Expr)):
        return False
    if expected.has(UnevaluatedExpr) or given.has(UnevaluatedExpr):
        return False
    letters = expected.free_symbols
    if letters != given.free_symbols or len(letters) > 4:
        return False
    at = {letter: Rational(7 + 4 * i, 5) for i, letter in enumerate(sorted(letters, key=str))}
    at |= {letter: I for letter in letters if letter.name == "i"}
    try:
        a, b = (complex(expr.subs(at).evalf(15)) for expr in (expected, given))
    except Exception:
        return False  # no number comes of it
    size = max(abs(a), abs(b))
    return _FLOAT_MIN < size < _FLOAT_MAX and abs(a - b) > 1e-3 * size


def _as_imaginary(expected: Any, given: Any) -> bool:
    """Whether two numbers are equal once the letter i is the imaginary unit."""
    from sympy import Expr, I, simplify

    if not (isinstance(expected, Expr) and isinstance(given, Expr)):
        return False
    letters = expected.free_symbols | given.free_symbols
    if {letter.name for letter in letters} != {"i"}:  # the library has two of them
        return False
    return bool(simplify((expected - given).doit().subs(dict.fromkeys(letters, I))) == 0)


def _joined_by_or(text: str) -> bool:
    return "or" in text.split() or "{or" in text or "{ or" in text or "或" in text


def _union(parsed: Any, said_or: bool) -> Any:
    """Inequalities joined by `or`, which the library reads as a set of them, as one set."""
    from sympy import FiniteSet, Union
    from sympy.core.relational import Relational

    if not said_or or not isinstance(parsed, FiniteSet):
        return parsed
    parts = list(parsed)
    if not all(isinstance(part, Relational) and part.rel_op in "<=>=" for part in parts):
        return parsed
    if any(part.rel_op == "==" for part in parts):
        return parsed
    return Union(*(part.as_set() for part in parts))


def _shown(given: Any, expected: Any) -> tuple[str, str] | None:
    """Both as short text; nothing where one has no such text (a number of 5,000 digits)."""
    try:
        return str(given)[:_SHOWN], str(expected)[:_SHOWN]
    except Exception:
        return None
