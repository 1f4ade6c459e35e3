"""Store of outcomes: what each filter found in each record, so that nothing is judged twice.

It holds outcomes, not verdicts: bounds and actions are applied when it is read, so they can be
moved without judging again. A row of the table is one filter on one chunk of a data set (up to
200 records; the column is called `piece`), written in one transaction.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filters.base import Decision, Figures
from filters.engine.filter import Outcome
from synth.core.errors import UserError

_TABLES = """
CREATE TABLE IF NOT EXISTS outcomes (
    filter TEXT, data TEXT, piece INTEGER, rows BLOB NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (filter, data, piece)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (
    filter TEXT, data TEXT, said TEXT NOT NULL, PRIMARY KEY (filter, data)
);
"""
Key = tuple[str, str]  # a filter's fingerprint, and a hash of the data that it judged


class OutcomeStore(AbstractContextManager["OutcomeStore"]):
    """Outcomes on disk, in an SQLite file. For one thread.

    Raises:
        UserError: The file is damaged or no such file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{path}: damaged, or no ledger of verdicts ({error}); remove it, and the filters "
                "run again"
            ) from error

    def chunks(self, key: Key) -> set[int]:
        """The chunks of a data set that a filter has judged."""
        sql = "SELECT piece FROM outcomes WHERE filter = ? AND data = ?"
        return {chunk for (chunk,) in self._db.execute(sql, key)}

    def write(self, chunk: int, outcomes: Mapping[Key, tuple[bytes, float]]) -> None:
        """Adds what some filters found in a chunk: packed outcomes, and the seconds they took."""
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?)",
            [(*key, chunk, packed, seconds) for key, (packed, seconds) in outcomes.items()],
        )
        self._db.execute("COMMIT")

    def read(self, key: Key, chunk: int) -> tuple[list[Outcome | None], float] | None:
        """What a filter found in a chunk, and the seconds it took; None where it did not judge."""
        sql = "SELECT rows, seconds FROM outcomes WHERE filter = ? AND data = ? AND piece = ?"
        row = self._db.execute(sql, (*key, chunk)).fetchone()
        return (unpack(row[0]), row[1]) if row else None

    def note(self, key: Key, lines: list[str]) -> None:
        """Keeps what a filter says of itself."""
        sql = "INSERT OR REPLACE INTO notes VALUES (?, ?, ?)"
        self._db.execute(sql, (*key, json.dumps(lines)))

    def notes(self, key: Key) -> list[str]:
        """What a filter said of itself."""
        sql = "SELECT said FROM notes WHERE filter = ? AND data = ?"
        row = self._db.execute(sql, key).fetchone()
        return list(json.loads(row[0])) if row else []

    def __exit__(self, *_: object) -> None:
        self._db.close()


def pack(outcomes: Sequence[Outcome | None]) -> bytes:
    """Outcomes as the store holds them; None where a record was not judged."""
    rows: list[Any] = []
    for outcome in outcomes:
        if isinstance(outcome, Figures):
            rows.append([outcome.values, outcome.evidence])
        else:
            rows.append(outcome and list(outcome))
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), 1)


def unpack(packed: bytes) -> list[Outcome | None]:
    """The outcomes that `pack` took."""
    rows = json.loads(zlib.decompress(packed))
    return [
        None if row is None else Figures(*row) if len(row) == 2 else Decision(*row) for row in rows
    ]
