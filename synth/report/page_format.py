"""How the report page shows values: escaped text, settings, numbers, and dashes for none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jinja2
from markupsafe import Markup

# Of one text; a model that runs wild writes megabytes.
MOST_CHARACTERS = 20_000
# Characters that a page cannot hold, or that would change how the text around them reads.
_VISIBLE_SIGNS: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},
    **dict.fromkeys([*range(0x7F, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], "\ufffd"),
    **{code: f"⟨U+{code:04X}⟩" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
}
_MISSING = Markup('<span class="missing" title="{}">–</span>')


def escape_control(value: Any) -> Any:
    """Returns any value fit to be shown; every expression of the template passes through here.

    NULs, lone surrogates and marks that turn the direction of writing become visible signs.
    """
    if isinstance(value, Markup):
        return value
    if value is None or isinstance(value, jinja2.Undefined):
        return _MISSING.format("not measured")
    return str(value).replace("\r\n", "\n").translate(_VISIBLE_SIGNS)


def clipped(text: str) -> str:
    """Returns the beginning of a long text, and how much more there is."""
    more = len(text) - MOST_CHARACTERS
    return text if more <= 0 else f"{text[:MOST_CHARACTERS]}\n… {more:,} more characters"


def plain(value: Any) -> str:
    """Returns a setting in the words of a config, without the braces and what is not set."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "none"
    if not isinstance(value, dict):
        return str(value)
    settings = (
        f"{name} ({plain(setting)})" if isinstance(setting, dict) else f"{name} {plain(setting)}"
        for name, setting in value.items()
        if setting is not None
    )
    return ", ".join(settings)


def number_filter(format_number: Callable[[Any], str]) -> Callable[..., str]:
    """Returns a template filter that formats a number, or shows a dash that says why none."""

    def show(value: Any, missing: str = "not measured") -> str:
        is_number = isinstance(value, int | float) and math.isfinite(value)
        return format_number(value) if is_number else _MISSING.format(missing)

    return show


def dollars(value: float) -> str:
    """Returns an amount in dollars; below ten dollars with four decimals."""
    return f"${value:,.2f}" if value >= 10 or value == 0 else f"${value:.4f}"


def signed(value: float) -> str:
    """Returns a number with its sign; the minus is as wide as the plus."""
    return f"{value:+.1f}".replace("-", "−")
