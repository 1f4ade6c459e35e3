"""The ledger: what each filter found in each record, kept so that nothing is judged twice.

It holds outcomes, not verdicts: bounds and actions are applied when it is read, so they can be
moved without judging again. A row of the table is one filter on one piece of a data set (up to
some hundred records), written in one transaction.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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


class OutcomeStore:
    """Outcomes on disk. For one thread; a context manager.

    Args:
        path: The SQLite file, made where it is not there.

    Raises:
        UserError: It is damaged or no such file.
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

    def pieces(self, filter: str, data: str) -> set[int]:
        """The pieces of a data set that a filter has judged."""
        sql = "SELECT piece FROM outcomes WHERE filter = ? AND data = ?"
        return {piece for (piece,) in self._db.execute(sql, (filter, data))}

    def write(self, data: str, piece: int, outcomes: dict[str, tuple[bytes, float]]) -> None:
        """Adds what some filters found in a piece: packed outcomes, and the seconds they took."""
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?)",
            [(name, data, piece, packed, seconds) for name, (packed, seconds) in outcomes.items()],
        )
        self._db.execute("COMMIT")

    def read(self, filter: str, data: str, piece: int) -> tuple[list[Outcome | None], float] | None:
        """What a filter found in a piece, and the seconds it took; None where it did not judge."""
        sql = "SELECT rows, seconds FROM outcomes WHERE filter = ? AND data = ? AND piece = ?"
        found = self._db.execute(sql, (filter, data, piece)).fetchone()
        return (unpack(found[0]), found[1]) if found else None

    def note(self, filter: str, data: str, said: Sequence[str]) -> None:
        """Keeps what a filter says of itself."""
        sql = "INSERT OR REPLACE INTO notes VALUES (?, ?, ?)"
        self._db.execute(sql, (filter, data, json.dumps(list(said))))

    def notes(self, filter: str, data: str) -> list[str]:
        """What a filter said of itself."""
        sql = "SELECT said FROM notes WHERE filter = ? AND data = ?"
        found = self._db.execute(sql, (filter, data)).fetchone()
        return list(json.loads(found[0])) if found else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._db.close()


def pack(outcomes: Sequence[Outcome | None]) -> bytes:
    """Outcomes as the ledger holds them; None where a record was not judged."""
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
