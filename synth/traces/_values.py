"""Values of rows from anywhere, made such that they can be kept as JSON."""

from __future__ import annotations

import math
from typing import Any

DEEPEST = 64  # levels; JSON itself has no bound, but what writes it has


class Unreadable(ValueError):
    """A row or a sample that gives no record; the message is why, as `kind: details`."""


def json_value(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it: no NaN, no infinity, and what is of another type as text.

    Raises:
        Unreadable: It is nested more than `DEEPEST` levels.
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if depth >= DEEPEST:
        raise Unreadable(f"nested too deeply: more than {DEEPEST} levels")
    if isinstance(value, dict):
        return {str(key): json_value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item, depth + 1) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def kind_of(value: Any) -> str:
    """What a value is called in a message."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a number",
             float: "a number", type(None): "empty"}  # fmt: skip
    return names.get(type(value), f"a {type(value).__name__}")


def count(value: Any) -> int | None:
    """A number of tokens; None where it is not one."""
    return value if type(value) is int and 0 <= value < 2**63 else None


def last_box(text: str) -> str | None:
    r"""What the last `\\boxed{...}` of a text holds; None where there is none that is closed.

    >>> last_box(r"So $\\boxed{1}$ or $\\boxed{\\frac{1}{2}}$.")
    '\\\\frac{1}{2}'
    """
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth, start = 1, start + len(r"\boxed{")
    for at in range(start, len(text)):
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if not depth:
                return text[start:at].strip() or None
    return None
