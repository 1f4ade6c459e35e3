"""`distill recover`: every sound row of a damaged response store, into a fresh one.

The file is read page by page, as its format is published (sqlite.org/fileformat2.html), and not
through SQLite: a row needs its own pages to be whole and no others, so that a lost header, schema,
index or inner page of a table costs nothing. What the write-ahead log holds is read over the file's
pages. No page is trusted: a response counts where its key is the hash of its request, where the
checksums of its parts hold, and where it is JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth.core.compression import decompress, parse_json
from synth.core.errors import UserError
from synth.core.usage import usage_of
from synth.store._sqlite_pages import PAGE_SIZE, Cell, Pages, page_size_of, read_log
from synth.store.responses import SCHEMA

_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Recovered:
    """What came of it."""

    saved: int  # responses in the fresh store
    lost: int  # responses known to be lost: there may be more, of which nothing is left
    notes: int  # rows of the other tables (failures, stand-ins, batches) that were saved
    damaged: Path | None  # where the damaged file lies now; None where it was sound


def sound_response(cell: Cell) -> tuple[Any, ...] | None:
    """A row of `responses` without its number, or None where it is none or is not sound.

    Key, request, response and labels are guarded by hash and checksums; the tokens are read again
    from the response. Nothing guards the run, the teacher, the cost and the times beside them:
    there, what cannot be is dropped.
    """
    values = cell.values
    if len(values) != 12 or not all(isinstance(values[i], bytes) for i in (9, 10)):
        return None
    _, key, run, teacher, _, _, cost, latency, created, request, response, labels = values
    try:
        # Behind the key of a response that was set aside stands its number.
        if hashlib.sha256(decompress(request)).hexdigest() != key.partition("/")[0]:
            return None
        raw = parse_json(decompress(response))
        if labels is not None:
            decompress(labels)
    except (ValueError, TypeError, AttributeError, MemoryError):
        return None
    if not isinstance(raw, dict):
        return None
    prompt, completion, _ = usage_of(raw, None)
    run, teacher = (text if isinstance(text, str) else "" for text in (run, teacher))
    figures = _figure(cost), _figure(latency) or 0.0, _figure(created) or 0.0
    return (key, run, teacher, prompt, completion, *figures, request, response, labels)


def _figure(value: Any) -> float | None:
    sound = isinstance(value, int | float) and math.isfinite(value) and value >= 0
    return float(value) if sound else None


def _note(values: tuple[Any, ...]) -> str | None:
    """Which of the other tables a row is of: by its shape, as little else guards it."""
    if len(values) == 2 and all(isinstance(value, str) for value in values):
        return "stand_ins" if _KEY.fullmatch(values[0]) else None
    if len(values) != 5 or not isinstance(values[0], str) or _figure(values[4]) is None:
        return None
    if all(isinstance(value, str) for value in values[1:4]):
        return "failures" if _KEY.fullmatch(values[0]) else None
    try:  # a batch that has ended since may come back; its teacher then finds nothing to fetch
        decompress(values[3])
        return "batches" if isinstance(json.loads(values[2]), dict) else None
    except (ValueError, TypeError, MemoryError):
        return None


def recover(path: Path, say: Callable[[str], None]) -> Recovered:
    """Puts a fresh store with all that is sound in the place of a damaged one.

    The damaged file stays beside it as `NAME.damaged`, its log as `NAME.damaged-wal`. A store that
    is sound is left as it is.

    Raises:
        UserError: There is no such file, another process uses it, or nothing in it is of a store.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    _refuse_if_used(path)
    fresh = path.with_name(path.name + ".recovering")
    fresh.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(fresh)) as connection, connection:
            connection.executescript(SCHEMA)
            saved, notes = _save(path, connection)
            lost = _missing(connection)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sqlite_count = _as_sqlite_sees(path)
    if not saved and not notes and sqlite_count is None:
        fresh.unlink()
        raise UserError(f"{path}: holds nothing of a response store; it is left as it is")
    lost = lost if sqlite_count is None else sqlite_count - saved
    if lost == 0 and sqlite_count is not None:
        fresh.unlink()
        say(f"{path}: sound, with {saved:,} responses; it is left as it is")
        return Recovered(saved, 0, notes, None)
    damaged = _free_name(path)
    for end in ("", "-wal"):
        if (part := path.with_name(path.name + end)).exists():
            part.rename(damaged.with_name(damaged.name + end))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)  # an index of the log, made anew
    fresh.rename(path)
    say(
        f"{path}: {saved:,} responses saved, each checked; "
        + (f"at least {lost:,} lost" if lost > 0 else "none is known to be lost")
        + f"\nthe damaged file is kept as {damaged}; a run buys again what is missing"
    )
    return Recovered(saved, max(lost, 0), notes, damaged)


def _save(path: Path, fresh: sqlite3.Connection) -> tuple[int, int]:
    """Copies what is sound. Gives the number of responses and of the other rows."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        max_id = size // 64  # a row takes more than this: a higher number is damaged
        for page_size in {PAGE_SIZE, page_size_of(data)}:
            log = read_log(path.with_name(path.name + "-wal"), page_size)
            # First what the log did not change: one of the two may be damaged.
            for over in ({}, log) if log else ({},):
                for cell in Pages(data, page_size, over).cells():
                    row = sound_response(cell)
                    if row is None:
                        if table := _note(cell.values):
                            _insert_note(fresh, table, cell.values)
                        continue
                    id = cell.id if 0 < cell.id <= max_id + len(log) * page_size // 64 else None
                    _insert(fresh, id, row)
        if isinstance(data, mmap.mmap):
            data.close()
    notes = sum(_count(fresh, table) for table in ("failures", "stand_ins", "batches"))
    return _count(fresh, "responses"), notes


def _count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _insert(fresh: sqlite3.Connection, id: int | None, row: tuple[Any, ...]) -> None:
    sql = f"INSERT OR IGNORE INTO responses VALUES ({','.join('?' * 12)})"
    if not fresh.execute(sql, (id, *row)).rowcount and id is not None:
        fresh.execute(sql, (None, *row))  # its number was taken; or the row is there already


def _insert_note(fresh: sqlite3.Connection, table: str, values: tuple[Any, ...]) -> None:
    if table == "failures":  # it has no key, and the log shows its pages twice
        sql = "SELECT 1 FROM failures WHERE key = ? AND created = ?"
        if fresh.execute(sql, values[::4]).fetchone():
            return
    marks = ",".join("?" * len(values))
    fresh.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", values)


def _as_sqlite_sees(path: Path) -> int | None:
    """How many responses SQLite finds in a file that is sound to it; None where it is not.

    Changes nothing: without a log the file is read as it lies, and with one it is opened to read,
    as another connection would move the log into the damaged file.
    """
    log = path.with_name(path.name + "-wal")
    mode = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
    uri = f"{path.absolute().as_uri()}?{mode}"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                return None
            return _count(connection, "responses")
    except (sqlite3.Error, UnicodeDecodeError):  # its message may quote what is damaged
        return None


def _missing(fresh: sqlite3.Connection) -> int:
    """How many numbers are missing below the last, as responses are numbered without a gap.

    Nothing guards a row's number: the last is one that stands beside another.
    """
    last = fresh.execute(
        "SELECT max(id) FROM responses AS one WHERE EXISTS "
        "(SELECT 1 FROM responses WHERE id IN (one.id - 1, one.id + 1))"
    ).fetchone()[0]
    return max(0, int(last or 0) - _count(fresh, "responses"))


def _free_name(path: Path) -> Path:
    name = path.with_name(path.name + ".damaged")
    number = 2
    while name.exists():
        name = path.with_name(f"{path.name}.damaged-{number}")
        number += 1
    return name


def _refuse_if_used(path: Path) -> None:
    """Every connection to a store holds a shared lock on these bytes for as long as it is open."""
    try:
        import fcntl
    except ImportError:
        return
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)
        except OSError as error:
            raise UserError(f"{path}: a run is using it; end that run first") from error
