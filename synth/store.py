"""The response store: every response that was paid for, exactly once, in one SQLite file.

What is in a key is all that changes the answer; what is not in it may change freely:

    in    messages, sampling parameters as sent     the request
    in    the teacher's identity                    kind, address, model, weights
    in    the sample's index                        sample 3 is not sample 4
    out   the teacher's name, prices, retries, concurrency, keys, timeouts
    out   the question's id, its reference answer, its place in the data, the run

Raw responses are stored, so parsing and filters run again over them for nothing. One thread
writes; everything that arrived while a commit was under way goes into the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import sqlite3
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth.errors import UserError
from synth.record import canonical_json, digest
from synth.teachers.contract import Request

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    key      TEXT PRIMARY KEY,
    request  BLOB NOT NULL,     -- zlib of the canonical JSON that was hashed
    response BLOB NOT NULL,     -- zlib of the raw response's JSON
    latency  REAL NOT NULL,     -- seconds
    created  REAL NOT NULL      -- Unix time
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (
    key      TEXT NOT NULL,     -- of the request that failed for good
    reason   TEXT NOT NULL,
    created  REAL NOT NULL
);
"""
# A file of this size lies beside the store and is given up when the disk is full, so that what was
# already on its way (and will be paid for) still finds room.
BALLAST_BYTES = 16 * 1024 * 1024


def request_key(request: Request, identity: dict[str, Any]) -> str:
    """The key of a request: see the table at the head of this module."""
    return digest(_keyed(request, identity))


def _keyed(request: Request, identity: dict[str, Any]) -> dict[str, Any]:
    return {
        "messages": request.messages,
        "sampling": request.sampling,
        "teacher": identity,
        "sample": request.sample,
    }


@dataclass(slots=True)
class Stored:
    """A response as stored: the raw completion, and the seconds it took."""

    raw: dict[str, Any]
    latency: float


@dataclass(slots=True)
class _Write:
    sql: str
    values: tuple[Any, ...]
    done: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class StoreFull(Exception):
    """The disk is full. What is in the store stays; nothing new goes in."""


class Store:
    """Opens the store, or makes it. Use as a context manager; reads and writes from one event loop.

    Raises:
        UserError: The file is there and is no such store, or its folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path.with_name(path.name + ".reserve")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._reader = self._connect()
            self._reader.executescript(_SCHEMA)
            self._lay_ballast()
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"response store {path}: cannot be opened ({error})") from error
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="store", daemon=True)
        self._thread.start()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str) -> Stored | None:
        """The response under a key, or None."""
        row = self._reader.execute(
            "SELECT response, latency FROM responses WHERE key = ?", (key,)
        ).fetchone()
        return Stored(json.loads(zlib.decompress(row[0])), row[1]) if row else None

    async def put(
        self, request: Request, identity: dict[str, Any], raw: dict[str, Any], latency: float
    ) -> None:
        """Stores a response and returns when it is on the disk.

        Raises:
            StoreFull: The disk took no more.
        """
        body = canonical_json(_keyed(request, identity)).encode("utf-8", "surrogatepass")
        answer = json.dumps(raw).encode()  # ASCII: lone surrogates stay as escapes
        await self._submit(
            "INSERT OR IGNORE INTO responses VALUES (?, ?, ?, ?, ?)",
            (
                request_key(request, identity),
                zlib.compress(body),
                zlib.compress(answer),
                latency,
                time.time(),
            ),
        )

    async def put_failure(self, key: str, reason: str) -> None:
        """Notes that a request failed for good, so that no request goes without an account."""
        await self._submit("INSERT INTO failures VALUES (?, ?, ?)", (key, reason, time.time()))

    def count(self) -> int:
        """How many responses the store holds."""
        return int(self._reader.execute("SELECT count(*) FROM responses").fetchone()[0])

    def close(self) -> None:
        """Waits for what is still to be written and closes the file."""
        self._writes.put(None)
        self._thread.join()
        self._reader.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
        # Three of a rollback journal's fsyncs become one, and readers never wait for the writer.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # what was paid for outlives a power cut
        return connection

    def _lay_ballast(self) -> None:
        if not self._ballast.exists() or self._ballast.stat().st_size < BALLAST_BYTES:
            try:
                self._ballast.write_bytes(b"\0" * BALLAST_BYTES)
            except OSError:
                self._ballast.unlink(missing_ok=True)
                raise

    async def _submit(self, sql: str, values: tuple[Any, ...]) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._writes.put(_Write(sql, values, done, loop))
        # Shielded: whoever waits may be cancelled, what was paid for is written all the same.
        await asyncio.shield(done)

    def _write_all(self) -> None:
        connection = self._connect()
        open_ = True
        while open_:
            batch = [self._writes.get()]
            while not self._writes.empty() and len(batch) < 1000:
                batch.append(self._writes.get())
            if None in batch:
                open_ = False
            writes = [write for write in batch if write is not None]
            error = self._commit(connection, writes)
            for write in writes:
                with contextlib.suppress(RuntimeError):  # its loop has ended: nobody waits
                    write.loop.call_soon_threadsafe(_settle, write.done, error)
        connection.close()

    def _commit(self, connection: sqlite3.Connection, writes: list[_Write]) -> Exception | None:
        for attempt in (1, 2):
            try:
                with connection:
                    for write in writes:
                        connection.execute(write.sql, write.values)
                return None
            except sqlite3.Error as error:
                if attempt == 1 and self._ballast.exists():
                    self._ballast.unlink()
                    continue
                return StoreFull(f"{self.path}: {error}")
        return None


def _settle(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
