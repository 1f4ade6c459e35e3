"""How figures look on the terminal: plain tables, shares and their intervals."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """The terminal; where the output goes into a file, nothing is wrapped to its width."""
    plain = not sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=plain, width=200 if plain else None)


def table(*columns: str) -> Table:
    """A table without lines: the first and the last column are text, the others figures."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index in (0, len(columns) - 1) else "right")
    return made


def percent(share: float) -> str:
    """A share of 1."""
    return f"{100 * share:.1f}%"


def interval(row: dict[str, Any]) -> str:
    """A share with its 95% interval."""
    low, high = 100 * row["low"], 100 * row["high"]
    return f"{percent(row['share'])} ({low:.1f} to {high:.1f})"


def change(row: dict[str, Any]) -> str:
    """A paired difference with its 95% interval and the p-value of its test."""
    low, high = 100 * row["low"], 100 * row["high"]
    p = row.get("p")
    test = "" if p is None else f", p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    clear = low > 0 or high < 0
    return (
        f"{100 * row['difference']:+.1f} points, 95% interval {low:+.1f} to {high:+.1f}{test}"
        + ("" if clear else ": no measurable change")
    )
