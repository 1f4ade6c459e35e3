"""Rows of a source, before they are tasks or records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A row as the source gave it."""

    place: str  # for messages, such as `data.jsonl:12`
    values: dict[str, Any] | None  # the columns, or None where the row could not be read
    error: str = ""  # why it could not


Rows = Iterator[Row]


@dataclass(slots=True)
class Skipped:
    """A row that gave no task: where it stands, and why."""

    place: str
    reason: str


def kind_of(value: Any) -> str:
    """Names the type of a value in a message."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a number",
             float: "a number", type(None): "empty"}  # fmt: skip
    return names.get(type(value), f"a {type(value).__name__}")
