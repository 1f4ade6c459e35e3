"""Rows of CSV. A row over the limit is skipped whole: its tail is never a row of its own."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synth.core._readers.row import CHUNK, Row, Rows, not_utf8, too_long
from synth.core._readers.text import NOT_UTF8
from synth.core.errors import UserError

# CSV has no types: this is how other programs write a cell that is missing.
_MISSING = {"nan", "NaN", "NULL", "null", "<NA>"}


def csv_rows(path: Path, file: io.BufferedReader[Any], max_bytes: int, delimiter: str) -> Rows:
    """Yields rows under a header; `max_bytes` counts characters here.

    Raises UserError where the header cannot be used, or a row goes on and on.
    """
    # One limit for all readers of a process. The bound is on rows here, and is kept by `_Lines`.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    lines = _Lines(path, file, max_bytes, delimiter)
    reader = csv.reader(lines, delimiter=delimiter)
    header: list[str] | None = None
    while True:
        lines.begin()
        error = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as problem:
            error = f"not CSV: {problem}"
        place = f"{path}:{lines.first}"
        error = lines.problem() or error
        if header is None:
            if error:  # without it no row can be read
                yield Row(place, None, f"{error} (the header)")
                return
            header = cells
            twice = [name for name, count in Counter(header).items() if name and count > 1]
            if twice:
                raise UserError(f"{place}: two columns have the same name, {twice[0]!r}")
        elif error:
            yield Row(place, None, error)
        elif len(cells) == len(header):
            cells_or_none = (None if cell in _MISSING else cell for cell in cells)
            yield Row(place, dict(zip(header, cells_or_none, strict=True)))
        elif cells:
            error = f"not CSV: {len(cells)} cells where the header has {len(header)}"
            yield Row(place, None, error)


class _Lines:
    """Feeds a CSV reader with lines.

    The reader asks for a second line of a row only while a quote is open. So of a row over the
    limit, quotes and delimiters are all that decides where it ends, and the rest is not kept.
    """

    def __init__(
        self, path: Path, file: io.BufferedReader[Any], max_chars: int, delimiter: str
    ) -> None:
        self._path = path
        # Bytes that are no UTF-8 are seen in the text, and lines end as they do for the reader.
        self._text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        self._max_chars = max_chars
        mark = re.escape(delimiter)
        self._filling = re.compile(f'[^"\r\n{mark}]+')
        # Runs of delimiters end one field or more, and two quotes in a row are no mark.
        self._runs = re.compile(f'{mark}+(?={mark})|(?:"")+(?=")')
        self._line = 0
        self.begin()

    def begin(self) -> None:
        """Notes that the next line begins a row."""
        self.first = self._line + 1  # line at which the row begins
        self._chars = self._kept = 0
        self._byte: int | None = None  # the first that is no UTF-8
        self._open = False  # whether the file ended in the row

    def problem(self) -> str | None:
        """Says what is wrong with the row that was just read."""
        if self._open:
            return f"not CSV: a quote opens and does not close until line {self._line}, the last"
        if self._chars > self._max_chars:
            return too_long(self._max_chars)
        return None if self._byte is None else not_utf8(self._byte)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while line := self._text.readline(self._max_chars + 1):
            begins = self._chars == 0
            self._line += 1
            self._chars += len(line)
            if self._chars <= self._max_chars:
                if not line.isascii() and (match := NOT_UTF8.search(line)):
                    self._byte = ord(match[0]) - 0xDC00
                return line
            shape = self._shape(line)
            if begins or '"' in shape:
                return shape
        self._open = self._chars > 0
        raise StopIteration

    def _shape(self, line: str) -> str:
        """Returns a line of a row over the limit without what lies between its marks."""
        shape = ""
        while True:
            piece = self._filling.sub("x", line)
            shape += self._runs.sub("", piece)
            if len(shape) + self._kept > max(self._max_chars, CHUNK):
                raise UserError(
                    f"{self._path}:{self.first}: a row without end, perhaps by a stray quote"
                )
            if line.endswith(("\n", "\r")) or not (line := self._text.readline(CHUNK)):
                break
        self._kept += len(shape)
        return shape
