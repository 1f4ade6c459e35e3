"""Makes text fit for people: short lines without what would steer a terminal, and sizes."""

from __future__ import annotations


def shown(text: str, max_chars: int = 60) -> str:
    """Returns a text on one short line, without what a terminal or a file would choke on."""
    text = "".join(c if c.isprintable() else " " for c in text[: 4 * max_chars])
    text = " ".join(text.split())
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def printable(line: str) -> str:
    """Escapes what would steer a terminal in a line that models or data sets write into."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in line)


def disk_size(bytes: float) -> str:
    """Returns a number of bytes as people read it: `3.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if bytes < 1000:
            return f"{bytes:.3g} {unit}"
        bytes /= 1000
    return f"{bytes:,.3g} TB"
