"""Rows of a source; streams those of a file: JSON Lines, a JSON array, CSV or Parquet.

What is held at a time has a bound, however long a line is or never ends. Gzip and Zstandard are
told by their first bytes.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from synth.core.compression import parse_json
from synth.core.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MAX_BYTES = 64 * 2**20  # the longest line or row that is taken where a config does not say it
_CHUNK = 2**20
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BETWEEN = re.compile(r"[\s,]*")
# Rows of Parquet are read so many bytes at a time, or one row where that is more.
_BATCH_BYTES, _BATCH_ROWS = 16 * 2**20, 1_000


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


def read_rows(path: Path, format: str, max_bytes: int) -> Rows:
    """Streams the rows of a file whose format is jsonl, json, csv, tsv or parquet.

    A line, array item, CSV row or Parquet text longer than `max_bytes` comes as a row with an
    error. Raises UserError where the file cannot be read on; the message says from which row.
    """
    if format == "parquet":
        return _parquet(path, max_bytes)
    return _text_rows(path, format, max_bytes)


def _text_rows(path: Path, format: str, max_bytes: int) -> Rows:
    with _opened(path) as file:
        start = file.peek(4)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{path}: written in UTF-16; UTF-8 is expected")
        if start.startswith(b"\xef\xbb\xbf"):
            file.read(3)
        if format in ("csv", "tsv"):
            yield from _csv(path, file, max_bytes, "\t" if format == "tsv" else ",")
        elif format == "json" and file.peek(64).lstrip().startswith(b"["):
            yield from _json_array(path, file, max_bytes)
        else:
            yield from _json_lines(path, file, max_bytes)


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader[Any]]:
    """Opens a file, decompressed; the library notices where a compressed file is cut short."""
    try:
        with io.BufferedReader(path.open("rb", buffering=0), _CHUNK) as raw:
            head = raw.peek(4)
            codec = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
            if codec is None:
                yield raw
                return
            import pyarrow as pa

            with pa.input_stream(raw, compression=codec) as stream:
                yield io.BufferedReader(stream, _CHUNK)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _lines(file: io.BufferedReader[Any], max_bytes: int) -> Iterator[bytes | None]:
    """Yields lines; None for one that is too long, which is passed over piece by piece."""
    read = file.readline
    while line := read(max_bytes + 1):
        if len(line) > max_bytes and not line.endswith(b"\n"):
            while (rest := read(_CHUNK)) and not rest.endswith(b"\n"):
                pass
            yield None
        else:
            yield line


def _too_long(max_bytes: int) -> str:
    return f"too long: more than max_bytes, {max_bytes:,}"


def _json_lines(path: Path, file: io.BufferedReader[Any], max_bytes: int) -> Rows:
    from pydantic_core import from_json

    name = f"{path}:"
    for number, line in enumerate(_lines(file, max_bytes), 1):
        place = f"{name}{number}"
        if line is None:
            yield Row(place, None, _too_long(max_bytes))
            continue
        try:
            values = from_json(line)
        except ValueError:
            if not line.strip():
                continue
            try:
                values = parse_json(line)
            except ValueError as error:  # a UnicodeDecodeError is one
                yield Row(place, None, f"not JSON: {error}")
                continue
        yield _row(place, values)


def _row(place: str, values: Any) -> Row:
    if isinstance(values, dict):
        return Row(place, values)
    return Row(place, None, f"no object: this is {kind_of(values)}")


def _json_array(path: Path, file: io.BufferedReader[Any], max_bytes: int) -> Rows:
    """Yields the items of an array, read by pieces: a partial item is tried again with more."""
    text = io.TextIOWrapper(file, "utf-8", errors="replace")
    decode = json.JSONDecoder().raw_decode
    buffer, size, count = text.read(_CHUNK).lstrip()[1:], _CHUNK, 0
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
                fits = end - start <= max_bytes
                yield _row(place, values) if fits else Row(place, None, _too_long(max_bytes))
                start, size = end, _CHUNK
                continue
        if whole:
            raise UserError(f"{path}: item {count + 1} is cut short or not JSON ({why})")
        if len(buffer) - start > max(max_bytes, _CHUNK):  # where the next one starts is not known
            raise UserError(
                f"{path}: item {count + 1} does not end in max_bytes, {max_bytes:,} ({why})"
            )
        more = text.read(size)
        buffer, start, size, whole = buffer[start:] + more, 0, 2 * size, not more
    if (buffer[start + 1 :] + text.read(_CHUNK)).strip():
        raise UserError(f"{path}: something follows the end of the array, after item {count}")


def _csv(path: Path, file: io.BufferedReader[Any], max_bytes: int, delimiter: str) -> Rows:
    """Yields rows under a header. A stray quote makes a row of many lines; that has a bound too."""
    csv.field_size_limit(max_bytes)  # the standard library has one limit for all readers
    row_bytes, skipped = 0, []

    def lines() -> Iterator[str]:
        nonlocal row_bytes
        for number, line in enumerate(_lines(file, max_bytes), 1):
            if line is None:
                skipped.append(Row(f"{path}:{number}", None, _too_long(max_bytes)))
                yield ""
                continue
            row_bytes += len(line)
            if row_bytes > 2 * max_bytes:
                raise UserError(f"{path}:{number}: a row without end, perhaps by a stray quote")
            yield line.decode("utf-8", "replace")

    reader = csv.reader(lines(), delimiter=delimiter)
    header: list[str] | None = None
    while True:
        yield from skipped
        skipped.clear()
        row_bytes = 0
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(f"{path}:{reader.line_num}", None, f"not CSV: {error}")
            continue
        place = f"{path}:{reader.line_num}"
        if header is None:
            header = cells
            if len(set(header)) < len(header):
                raise UserError(f"{place}: two columns of the header have the same name")
        elif len(cells) == len(header):
            yield Row(place, dict(zip(header, cells, strict=True)))
        elif cells:
            error_text = f"not CSV: {len(cells)} cells where the header has {len(header)}"
            yield Row(place, None, error_text)


def _parquet(path: Path, max_bytes: int) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # Pages are read as they are needed: a row group may hold gigabytes.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_CHUNK) as file:
            for batch in file.iter_batches(_batch_rows(file.metadata)):
                for values in batch.to_pylist():
                    number += 1
                    place = f"{path}:{number}"
                    if any(isinstance(v, str) and len(v) > max_bytes for v in values.values()):
                        yield Row(place, None, _too_long(max_bytes))
                    else:
                        yield Row(place, values)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        after = f" after row {number}" if number else ""
        raise UserError(f"{path}: not a sound Parquet file{after} ({error})") from error


def _batch_rows(file: pq.FileMetaData) -> int:
    groups = [file.row_group(index) for index in range(file.num_row_groups)]
    largest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return int(max(1, min(_BATCH_ROWS, _BATCH_BYTES / max(1, largest))))
