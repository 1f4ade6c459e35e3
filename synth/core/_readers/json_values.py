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
