"""Whether what came out is what was expected: all of it, never the part that both have."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from filters._code.test_formats import Either


def same_text(got: str, expected: str, tolerance: float) -> bool:
    r"""Whether two outputs are the same, white space at ends of lines and of the text aside.

    Where a word of the expected text is a decimal number, the word in its place may be a number
    that is near enough.

    >>> same_text("1\n", "1\n2\n3\n", 0)
    False
    """

    def same_word(got_word: str, expected_word: str) -> bool:
        if "." not in expected_word and "e" not in expected_word.lower():
            return False
        try:
            return _near(float(got_word), float(expected_word), tolerance)
        except ValueError:
            return False

    def same_line(got_line: str, expected_line: str) -> bool:
        return _same_items(got_line.split(), expected_line.split(), same_word)

    return _same_items(_lines(got), _lines(expected), same_line)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _same_items(got: list[str], expected: list[str], same: Callable[[str, str], bool]) -> bool:
    if got == expected or len(got) != len(expected):
        return got == expected
    return all(a == b or same(a, b) for a, b in zip(got, expected, strict=True))


def _near(got: float, expected: float, tolerance: float) -> bool:
    try:
        near = math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance)
        return near and math.isfinite(expected)
    except OverflowError:  # a whole number that no float is near
        return False


def same_value(got: Any, expected: Any, tolerance: float) -> bool:
    """Whether the result of a call is what JSON says it should be; tuples are lists there.

    `got` is what `filters._code.inside.wire.encode` sent. The tolerance is the relative or absolute
    error allowed where one of two numbers is a decimal.
    """
    if isinstance(expected, Either):
        return any(same_value(got, one, tolerance) for one in expected)
    if isinstance(got, dict):
        ((form, content),) = got.items()
        if form == "dict" and isinstance(expected, dict):
            keys = {str(key) if isinstance(key, int | float) else key: v for key, v in content
                    if isinstance(key, int | float | str)}  # fmt: skip
            return (
                keys.keys() == expected.keys()
                and len(content) == len(expected)
                and all(same_value(value, expected[key], tolerance) for key, value in keys.items())
            )
        if form == "int":
            return isinstance(expected, int) and int(content, 16) == expected
        return form == "tuple" and same_value(content, expected, tolerance)
    if isinstance(got, list) and isinstance(expected, list):
        return len(got) == len(expected) and all(
            same_value(a, b, tolerance) for a, b in zip(got, expected, strict=True)
        )
    if isinstance(got, float | int) and isinstance(expected, float | int):
        decimal = isinstance(got, float) or isinstance(expected, float)
        return got == expected or (decimal and _near(got, expected, tolerance))
    return bool(got == expected)
