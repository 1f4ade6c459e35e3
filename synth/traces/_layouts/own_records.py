"""Reads our own records back, checked field by field: they may come from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_origin

from synth.core.readers import Unreadable, json_value, kind_of
from synth.core.record import Record, field_types, from_row

_INT64 = range(-(2**63), 2**63)


def own_records(row: dict[str, Any]) -> Iterator[Record | str]:
    """Yields a record as it was written, without its verdicts: the filters give new ones."""
    try:
        record = from_row({**row, "verdicts": []})
        for part in (record, record.task, record.generation):
            _check_fields(part)
        for message in record.messages:
            if not isinstance(message["role"], str) or not isinstance(message["content"], str):
                raise TypeError("a message is not text")
        record.task.metadata = json_value(record.task.metadata)
    except Unreadable as error:
        yield str(error)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        yield f"not a record of ours: {type(error).__name__} {error}"
    else:
        yield record


def _check_fields(part: Any) -> None:
    """Raises TypeError where a field is of another type than the record's own."""
    types: dict[str, tuple[Any, bool]] = field_types(part.__class__) if part is not None else {}
    for name, (kind, optional) in types.items():
        value = getattr(part, name)
        if value is None and optional:
            continue
        if kind in (str, int, float) or get_origin(kind) is dict:
            expected = (int, float) if kind is float else (get_origin(kind) or kind,)
            if type(value) not in expected:
                raise TypeError(f"{name} is {kind_of(value)}")
        if type(value) is int and value not in _INT64:
            raise TypeError(f"{name} is too large")
        if kind == list[str] and not (
            type(value) is list and all(isinstance(v, str) for v in value)
        ):
            raise TypeError(f"{name} are not texts")
