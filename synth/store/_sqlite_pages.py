"""Reader of the pages of an SQLite file, sound or damaged."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

PAGE_SIZE = 4096  # of every store; the header's word counts only where it is sound
_MAGIC = b"SQLite format 3\0"
_LEAF = 0x0D  # a page of a table that holds rows
_FIXED = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}  # bytes of a serial type


class Cell(NamedTuple):
    """A row as it lies in the file: its number, its columns, and the pages that it needs."""

    id: int
    values: tuple[Any, ...]
    pages: list[int]


class Pages:
    """A file's pages by their number, from 1, with those of a write-ahead log over them."""

    def __init__(self, data: Any, size: int, over: Mapping[int, bytes]) -> None:
        self.data, self.size, self.over = data, size, over
        self.count = max(len(data) // size, max(over, default=0))

    def __getitem__(self, number: int) -> bytes:
        page = self.over.get(number)
        if page is None:
            page = self.data[(number - 1) * self.size : number * self.size]
        return page if number > 0 and len(page) == self.size else b""

    def cells(self) -> Iterator[Cell]:
        """Every row of every page that looks like a table's; rubbish where a page is damaged."""
        for number in range(1, self.count + 1):
            page, start = self[number], 100 if number == 1 else 0
            if not page or page[start] != _LEAF:
                continue
            for i in range(int.from_bytes(page[start + 3 : start + 5], "big")):
                at = start + 8 + 2 * i
                # A damaged cell can be wrong in any way, and the next may be sound.
                with contextlib.suppress(IndexError, ValueError, struct.error):
                    yield self._cell(number, page, int.from_bytes(page[at : at + 2], "big"))

    def _cell(self, number: int, page: bytes, at: int) -> Cell:
        length, at = _varint(page, at)
        id, at = _varint(page, at)
        if length > len(self.data) + len(self.over) * self.size:
            raise ValueError("longer than the file")
        # What lies in this page; the rest follows in pages of its own.
        local, min_local = self.size - 35, (self.size - 12) * 32 // 255 - 23
        if length > local:
            max_local, local = local, min_local + (length - min_local) % (self.size - 4)
            local = local if local <= max_local else min_local
        body, pages = page[at : at + min(length, local)], [number]
        parts, have = [body], len(body)
        follow = int.from_bytes(page[at + local : at + local + 4], "big") if length > local else 0
        while have < length:
            rest = self[follow]
            if not rest or len(pages) > self.count:
                raise ValueError("the rest of the row is gone")
            pages.append(follow)
            parts.append(rest[4 : 4 + length - have])
            have += len(parts[-1])
            follow = int.from_bytes(rest[:4], "big")
        return Cell(id, tuple(_columns(b"".join(parts))), pages)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(8):
        byte = data[at + i]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + i + 1
    return value << 8 | data[at + 8], at + 9


def _columns(record: bytes) -> Iterator[Any]:
    """The values of a record: a header of their types, then the values themselves."""
    end, at = _varint(record, 0)
    types = []
    while at < end:
        kind, at = _varint(record, at)
        types.append(kind)
    at = end
    for kind in types:
        length = _FIXED[kind] if kind < 10 else (kind - 12) // 2
        value = record[at : at + length]
        if length < 0 or len(value) < length:
            raise ValueError("the row is shorter than its header says")
        at += length
        if kind == 0:
            yield None
        elif kind == 7:
            yield struct.unpack(">d", value)[0]
        elif kind < 8:
            yield int.from_bytes(value, "big", signed=True)
        elif kind < 10:
            yield kind - 8
        else:
            yield value.decode("utf-8", "replace") if kind % 2 else value


def page_size_of(data: Any) -> int:
    """The size of a file's pages, by its header where that is sound."""
    size = int.from_bytes(data[16:18], "big")
    size = 65536 if size == 1 else size
    sound = data[:16] == _MAGIC and size >= 512 and size & (size - 1) == 0
    return size if sound else PAGE_SIZE


def read_log(path: Path, page_size: int) -> dict[int, bytes]:
    """The last version of each page in a write-ahead log.

    Frames of an earlier use of the log have other salts. That a frame was committed does not
    matter here: a response in it was paid for, and is checked like any other.
    """
    try:
        log = path.read_bytes()
    except FileNotFoundError:
        return {}
    pages, step = {}, 24 + page_size
    for at in range(32, len(log) - step + 1, step):
        number = int.from_bytes(log[at : at + 4], "big")
        if log[at + 8 : at + 16] == log[16:24] and 0 < number < 2**31:
            pages[number] = log[at + 24 : at + step]
    return pages
