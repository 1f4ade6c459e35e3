"""Text made safe to show: short lines without what would steer a terminal."""

from __future__ import annotations

_SHOWN = 60


def shown(text: str, most: int = _SHOWN) -> str:
    """A text on one short line, with nothing in it that a terminal or a file would choke on."""
    text = "".join(c if c.isprintable() else " " for c in text[: 4 * most])
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def printable(line: str) -> str:
    """A line without what would steer a terminal: models and data sets write into it."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in line)
