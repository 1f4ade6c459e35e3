"""Rows of a source; streams those of a file: JSON Lines, a JSON array, CSV or Parquet.

What is held at a time has a bound, however long a line is or never ends. Gzip, Zstandard and UTF-16
are told by their first bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from synth.core._readers.cells import (
    cell_at,
    find_column,
    media_column,
    media_placeholder,
    reference_text,
    without,
)
from synth.core._readers.csv_rows import csv_rows
from synth.core._readers.json_rows import json_rows
from synth.core._readers.json_values import DEEPEST, Unreadable, json_value
from synth.core._readers.parquet_rows import parquet_rows
from synth.core._readers.row import MAX_BYTES, Row, Rows, kind_of
from synth.core._readers.text import opened

__all__ = [
    "DEEPEST",
    "MAX_BYTES",
    "Row",
    "Rows",
    "Skipped",
    "Unreadable",
    "cell_at",
    "find_column",
    "json_value",
    "kind_of",
    "media_column",
    "media_placeholder",
    "read_rows",
    "reference_text",
    "without",
]


@dataclass(slots=True)
class Skipped:
    """A row that gave no task: where it stands, and why."""

    place: str
    reason: str


def read_rows(path: Path, format: str, max_bytes: int, delimiter: str = ",") -> Rows:
    """Streams the rows of a file whose format is jsonl, json, csv, tsv or parquet.

    jsonl and json are one: how a file is written is told by its beginning. A line, array item, CSV
    row or Parquet text longer than `max_bytes` comes as a row with an error. Raises UserError where
    the file cannot be read on; the message says from which row.
    """
    if format == "parquet":
        return parquet_rows(path, max_bytes)
    return _text_rows(path, format, max_bytes, "\t" if format == "tsv" else delimiter)


def _text_rows(path: Path, format: str, max_bytes: int, delimiter: str) -> Rows:
    with opened(path) as file:
        if format in ("csv", "tsv"):
            yield from csv_rows(path, file, max_bytes, delimiter)
        else:
            yield from json_rows(path, file, max_bytes)
