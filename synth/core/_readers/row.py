"""A row as a source gave it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

MAX_BYTES = 64 * 2**20  # the longest line or row that is taken where a config does not say it
CHUNK = 2**20


class Row(NamedTuple):
    """A row as the source gave it."""

    place: str  # for messages, such as `data.jsonl:12`
    values: dict[str, Any] | None  # the columns, or None where the row could not be read
    error: str = ""  # why it could not


Rows = Iterator[Row]


def kind_of(value: Any) -> str:
    """Names the type of a value in a message."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a number",
             float: "a number", type(None): "empty"}  # fmt: skip
    return names.get(type(value), f"a {type(value).__name__}")


def object_row(place: str, values: Any) -> Row:
    """Returns the row of a JSON value, which has to be an object."""
    if isinstance(values, dict):
        return Row(place, values)
    return Row(place, None, f"no object: this is {kind_of(values)}")


def too_long(max_bytes: int) -> str:
    """Says why a row over the limit is skipped."""
    return f"too long: more than max_bytes, {max_bytes:,}"


def not_utf8(byte: int) -> str:
    """Says why text in another encoding is skipped, and what mends it."""
    return (
        f"not UTF-8: it has the byte 0x{byte:02x}; save the file as UTF-8, such as by "
        "`iconv -f latin1 -t utf-8 OLD > NEW`"
    )
