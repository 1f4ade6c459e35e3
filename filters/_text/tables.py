"""Tables of words and regular expressions, read from the TOML files beside this module."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

Expression = str | list[str]

_NAME = re.compile(r"<([A-Z_]+)>")


@cache
def read_table(name: str) -> dict[str, Any]:
    """Returns the table `NAME.toml`. It is read once, and shared: do not change it."""
    return tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8"))


def any_of(expressions: Iterable[Expression], parts: Mapping[str, Expression] | None = None) -> str:
    """Returns one regular expression that matches what any of these matches.

    Each is one text, or in pieces; `parts` are expressions that stand in others as `<NAME>`.

    >>> any_of(["a", ["b", "<C>"]], {"C": "c+"})
    'a|bc+'
    """

    def joined(expression: Expression) -> str:
        text = expression if isinstance(expression, str) else "".join(expression)
        return _NAME.sub(lambda found: joined((parts or {})[found[1]]), text)

    return "|".join(map(joined, expressions))
