"""Rows of JSON: a line each, the items of an array, or those of the one list in an object."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synth.core._readers.row import CHUNK, Row, Rows, not_utf8, object_row, too_long
from synth.core._readers.text import NOT_UTF8
from synth.core.compression import parse_json
from synth.core.errors import UserError

_BETWEEN = re.compile(r"[\s,]*")
# Keys under which an object holds all rows. A single row may have lists of objects too, its turns.
_HOLDERS = {"data", "dataset", "rows", "records", "examples", "instances", "items", "samples",
            "questions", "problems", "tasks", "traces", "results", "train", "test", "validation",
            "dev", "eval"}  # fmt: skip
_TURNS = {"messages", "conversations", "conversation", "prompt", "completion"}


def json_rows(path: Path, file: io.BufferedReader[Any], max_bytes: int) -> Rows:
    """Yields the rows of a file; how it is written is told by its beginning.

    Raises UserError where it cannot be read on.
    """
    first, _, rest = file.peek().lstrip().partition(b"\n")
    if first.startswith(b"[") and not (rest.strip() and _is_json(first)):
        yield from _json_array(path, file, max_bytes)
    elif first.rstrip().endswith((b"{", b"[")) and first.startswith(b"{"):
        yield from _json_document(path, file, max_bytes)
    else:
        yield from _json_lines(path, file, max_bytes)


def _is_json(text: bytes) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def _lines(file: io.BufferedReader[Any], max_bytes: int) -> Iterator[bytes | None]:
    """Yields lines; None for one that is too long, which is passed over piece by piece."""
    read = file.readline
    while line := read(max_bytes + 1):
        if len(line) > max_bytes and not line.endswith(b"\n"):
            while (rest := read(CHUNK)) and not rest.endswith(b"\n"):
                pass
            yield None
        else:
            yield line


def _json_lines(path: Path, file: io.BufferedReader[Any], max_bytes: int) -> Rows:
    from pydantic_core import from_json

    name = f"{path}:"
    for number, line in enumerate(_lines(file, max_bytes), 1):
        place = f"{name}{number}"
        if line is None:
            yield Row(place, None, too_long(max_bytes))
            continue
        try:
            values = from_json(line)
        except ValueError:
            if not line.strip():
                continue
            try:
                values = parse_json(line)
            except UnicodeDecodeError as error:
                yield Row(place, None, not_utf8(error.object[error.start]))
                continue
            except ValueError as error:
                yield Row(place, None, f"not JSON: {error}")
                continue
        held = _held_rows(path, values) if number == 1 and isinstance(values, dict) else None
        if held is not None and not file.peek(1).strip():
            yield from held
        else:
            yield object_row(place, values)


def _json_document(path: Path, file: io.BufferedReader[Any], max_bytes: int) -> Rows:
    """Yields the rows of a file that is one object: those of its list, or itself."""
    text = file.read(max_bytes + 1)
    if len(text) > max_bytes:
        raise UserError(
            f"{path}: one JSON object of more than max_bytes, {max_bytes:,}; expected an object "
            "a line, or an array of them"
        )
    try:
        document = parse_json(text)
    except ValueError:  # each line has its own reason
        yield from _json_lines(path, io.BufferedReader(io.BytesIO(text)), max_bytes)
        return
    held = _held_rows(path, document)
    yield from [object_row(f"{path}:1", document)] if held is None else held


def _held_rows(path: Path, document: dict[str, Any]) -> Rows | None:
    """Returns the rows that an object holds in a list; None where it is itself a row."""
    lists = {
        key: items
        for key, items in document.items()
        if isinstance(items, list) and any(isinstance(item, dict) for item in items)
    }
    holders = [key for key in lists if key.lower() in _HOLDERS]
    if len(document) == 1:
        holders = [key for key in lists if key.lower() not in _TURNS]
    if not holders:
        return None
    if len(holders) > 1:
        sizes = ", ".join(f"{key} ({len(lists[key]):,})" for key in holders)
        raise UserError(f"{path}: one object with several lists: {sizes}; write one of them alone "
                        "into a file")  # fmt: skip
    (key,) = holders
    return (object_row(f"{path}: {key}[{n}]", values) for n, values in enumerate(lists[key], 1))


def _json_array(path: Path, file: io.BufferedReader[Any], max_bytes: int) -> Rows:
    """Yields the items of an array, read by pieces: a partial item is tried again with more."""
    text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape")
    decode = json.JSONDecoder().raw_decode
    buffer, size, count = text.read(CHUNK).lstrip()[1:], CHUNK, 0
    start, whole = 0, False
    while True:
        start = _BETWEEN.match(buffer, start).end()  # type: ignore[union-attr] # it matches nothing too
        if buffer.startswith("]", start):
            break
        why = "no end"
        try:
            values, end = decode(buffer, start)
        except RecursionError:
            raise UserError(f"{path}: item {count + 1} is nested too deeply") from None
        except ValueError as error:
            why = str(error.args[0]).split(":")[0]
        else:
            if end < len(buffer):  # else a number may go on
                count, place = count + 1, f"{path}[{count + 1}]"
                if end - start > max_bytes:
                    yield Row(place, None, too_long(max_bytes))
                elif match := NOT_UTF8.search(buffer, start, end):
                    yield Row(place, None, not_utf8(ord(match[0]) - 0xDC00))
                else:
                    yield object_row(place, values)
                start, size = end, CHUNK
                continue
        if whole:
            raise UserError(f"{path}: item {count + 1} is cut short or not JSON ({why})")
        if len(buffer) - start > max(max_bytes, CHUNK):  # where the next one starts is not known
            raise UserError(
                f"{path}: item {count + 1} does not end in max_bytes, {max_bytes:,} ({why})"
            )
        more = text.read(size)
        buffer, start, size, whole = buffer[start:] + more, 0, 2 * size, not more
    if (buffer[start + 1 :] + text.read(CHUNK)).strip():
        raise UserError(f"{path}: something follows the end of the array, after item {count}")
