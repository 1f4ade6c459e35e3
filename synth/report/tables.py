"""How figures look on the terminal: plain tables, shares and their intervals."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Returns the terminal; where the output goes into a file, nothing is wrapped to its width."""
    plain = not sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=plain, width=200 if plain else None)


def table(*columns: str) -> Table:
    """Returns a table without lines; the first and the last column are text, others figures."""
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        rows.add_column(column, justify="left" if index in (0, len(columns) - 1) else "right")
    return rows


def percent(share: float) -> str:
    """Formats a share of 1."""
    return f"{100 * share:.1f}%"


def interval(row: dict[str, Any]) -> str:
    """Formats a share with its 95% interval."""
    return f"{percent(row['share'])} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def change(row: dict[str, Any]) -> str:
    """Formats a paired difference with its 95% interval and the p-value of its test."""
    low, high, p = 100 * row["low"], 100 * row["high"], row.get("p")
    test = "" if p is None else f", p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    doubt = "" if low > 0 or high < 0 else ": no measurable change"
    points = f"{100 * row['difference']:+.1f} points"
    return f"{points}, 95% interval {low:+.1f} to {high:+.1f}{test}{doubt}"
