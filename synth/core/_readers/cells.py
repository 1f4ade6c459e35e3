"""The cells of a row: nested columns, reference answers, and what is no text."""

from __future__ import annotations

import math
import re
from typing import Any

Path_ = tuple[str | int, ...]

_MEDIA = {
    name + ending
    for name in ("image", "images", "video", "videos", "audio", "audios")
    for ending in ("", "_path", "_paths", "_url", "_urls")
}
# What stands for an image in a text: alone in its line, or at the head, as LLaVA and Qwen write it.
_PLACEHOLDER = re.compile(
    r"\A\s*<(?:image|video|audio)>|^[ \t]*<(?:image|video|audio)>[ \t\r]*$"
    r"|<\|(?:image|video|audio)_pad\|>",
    re.MULTILINE,
)


def find_column(values: Any, name: str) -> Path_ | None:
    """Finds where a row holds a column, or None: by its whole name, else by dots as a nested one.

    >>> find_column({"data": {"turns": [{"text": "a"}]}}, "data.turns.0.text")
    ('data', 'turns', 0, 'text')
    >>> find_column({"a.b": 1, "a": {"b": 2}}, "a.b")
    ('a.b',)
    """
    if isinstance(values, list):
        head, _, rest = name.partition(".")
        if not (head.isascii() and head.isdigit() and int(head) < len(values)):
            return None
        inner = find_column(values[int(head)], rest) if rest else ()
        return None if inner is None else (int(head), *inner)
    if not isinstance(values, dict):
        return None
    if name in values:
        return (name,)
    for dot in (index for index, letter in enumerate(name) if letter == "."):
        head, rest = name[:dot], name[dot + 1 :]
        if head in values and (inner := find_column(values[head], rest)) is not None:
            return (head, *inner)
    return None


def cell_at(values: Any, path: Path_) -> Any:
    """Returns what a row holds at a path that `find_column` found."""
    for step in path:
        values = values[step]
    return values


def without(values: dict[str, Any], path: Path_) -> dict[str, Any]:
    """Returns a row without one column; what lies inside a list stays."""
    step, rest = path[0], path[1:]
    if not rest:
        return {key: value for key, value in values.items() if key != step}
    inner = values.get(str(step))
    return {**values, str(step): without(inner, rest)} if isinstance(inner, dict) else values


def reference_text(value: Any) -> str | None:
    """Returns a reference answer as text; None where a cell has none.

    Not a number, an infinity, null and blanks are no reference; the text "NaN" of JSON or Parquet
    is one. A whole number is written as one, as tables of numbers hold it as `18.0`; a list of one
    value stands for the value.

    >>> reference_text(18.0), reference_text(float("nan")), reference_text(["5"])
    ('18', None, '5')
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        return value if value and not value.isspace() else None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)
    return None if value is None else str(value)


def media_column(values: dict[str, Any]) -> str | None:
    """Names a filled column of images, sound or video, which a question then cannot do without."""
    return next(
        (name for name, value in values.items() if str(name).lower() in _MEDIA and _filled(value)),
        None,
    )


def media_placeholder(text: str) -> str | None:
    """Returns what stands for an image, sound or video in a text, or None."""
    if "<" not in text or not (match := _PLACEHOLDER.search(text)):
        return None
    mark = match[0].strip()
    return None if f"</{mark[1:]}" in text else mark


def _filled(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_filled, value))
    if isinstance(value, float):
        return not math.isnan(value)
    return value is not None and not (isinstance(value, str | bytes | dict) and not value)
