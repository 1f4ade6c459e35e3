"""The response store: every response that was paid for, exactly once, in one SQLite file.

What is in a key is all that changes the answer; what is not in it may change freely
(`tests/synth/store/test_responses.py` has a test for each line):

    in    messages                                    what is asked, worked examples included
    in    sampling parameters as sent                 temperature, max_tokens, seed, logprobs, ...
    in    the teacher's identity                      kind, address, model, weights, chat template
    in    the sample's index                          sample 3 is not sample 4
    out   the teacher's name, its share and place     renaming or reordering buys nothing again
    out   prices, budgets, keys, retries, time-outs   they change what is paid, not what is said
    out   concurrency, rate limits, batch sizes       they change when an answer comes
    out   the question's id, reference, metadata      where they are not in the messages
    out   the question's place, the run's name        reordering and appending buy nothing again
    out   filters, student, training, evaluation      they read answers and make none

Raw responses are stored as they came, so parsing and filters run again over them for nothing. One
thread compresses and writes; all that arrived while a commit was under way goes into the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import queue
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from synth.core.compression import compress, decompress, parse_json
from synth.core.errors import UserError
from synth.core.usage import Estimate
from synth.store.keys import RequestKey
from synth.store.usage import ANSWERS, Usage, bought, damaged_store

VERSION = 2
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS responses (
    id                INTEGER PRIMARY KEY,  -- in the order in which they came
    key               TEXT NOT NULL UNIQUE, -- KEY/ID: set aside, as it holds no answer
    run               TEXT NOT NULL,        -- which run bought it, from which of its teachers
    teacher           TEXT NOT NULL,
    prompt_tokens     INTEGER,
    completion_tokens INTEGER,
    cost_usd          REAL,                 -- by the price at that time; NULL is not known
    latency           REAL NOT NULL,        -- seconds
    created           REAL NOT NULL,        -- Unix time
    request           BLOB NOT NULL,        -- zstd of the canonical JSON that was hashed
    response          BLOB NOT NULL,        -- zstd of the raw response, without its soft labels
    labels            BLOB                  -- soft labels, where some were asked for
);
CREATE TABLE IF NOT EXISTS failures (
    key TEXT NOT NULL, run TEXT NOT NULL, teacher TEXT NOT NULL,
    reason TEXT NOT NULL, created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS stand_ins (
    key TEXT PRIMARY KEY, teacher TEXT NOT NULL  -- who answered in place of the one asked first
);
CREATE TABLE IF NOT EXISTS batches (      -- at a provider, until their answers are all here
    file     TEXT PRIMARY KEY,              -- the uploaded requests, as the provider named them
    id       TEXT,                          -- the batch, likewise; NULL: it may have been made
    endpoint TEXT NOT NULL,                 -- canonical JSON of the teacher's identity
    requests BLOB NOT NULL,                 -- zstd of the canonical requests, a line each
    created  REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS estimates (    -- for caps: what a response came to where it has no usage
    key    TEXT PRIMARY KEY,
    tokens INTEGER NOT NULL,
    usd    REAL                             -- NULL is not known, or is with the response
);
PRAGMA user_version = {VERSION};
"""
_INSERT = (
    "INSERT OR IGNORE INTO responses (key, run, teacher, prompt_tokens, completion_tokens, "
    "cost_usd, latency, created, request, response, labels) VALUES (?,?,?,?,?,?,?,?,?,?,?)"
)
# A response that turned out to hold no answer keeps its row, and gives up its key: with its number
# behind it, no request finds it any more. What it cost still counts.
_SET_ASIDE = "UPDATE responses SET key = key || '/' || id WHERE key = ?"
# A file of this size lies beside the store and is given up when the disk is full, so that what was
# already on its way (and will be paid for) still finds room.
RESERVE_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class Stored:
    """A response as stored: the raw completion, and the seconds it took."""

    raw: dict[str, Any]
    latency: float


class ResponseMetadata(NamedTuple):
    """What is noted of a response beside its text: who bought it, and what it came to."""

    run: str = ""
    teacher: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    latency: float = 0.0


@dataclass(slots=True)
class Batch:
    """Requests that were handed to a provider together (its files and batches endpoints)."""

    file: str  # the provider's name for the uploaded requests
    id: str | None  # its name for the batch; None where it is not known whether one was made
    created: float  # the Unix time at which it was noted
    requests: list[RequestKey]  # when it is read back, those without a stored response


class _Write(NamedTuple):
    sql: str
    values: Sequence[Any]
    done: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class StoreFull(Exception):
    """The disk is full. What is in the store stays; nothing new goes in."""


class ResponseStore(contextlib.AbstractContextManager["ResponseStore"]):
    """Opens the store, or makes it. Use as a context manager; reads and writes from one event loop.

    Raises:
        UserError: The file is there and is no such store, is damaged, or its folder cannot be
            written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._disk_reserve = path.with_name(path.name + ".reserve")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._reader = self._connect()
            self._check_version()
            self._reader.executescript(SCHEMA)
            self._fill_disk_reserve()
        except (OSError, sqlite3.OperationalError) as error:  # locked, unreadable, no such folder
            raise UserError(f"response store {path}: cannot be opened ({error})") from error
        except sqlite3.DatabaseError as error:
            raise damaged_store(path, error) from error
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="store", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str) -> Stored | None:
        """The response under a key, or None. Raises UserError where it is damaged."""
        row = self._one("SELECT response, latency FROM responses WHERE key = ?", key)
        if row is None:
            return None
        try:
            return Stored(parse_json(decompress(row[0])), row[1])
        except ValueError as error:
            raise damaged_store(self.path, error) from error

    def labels(self, key: str) -> bytes | None:
        """The soft labels that came with the response under a key, as they were put."""
        row = self._one("SELECT labels FROM responses WHERE key = ?", key)
        return row[0] if row else None

    async def persist(
        self,
        request: RequestKey,
        response: bytes,
        metadata: ResponseMetadata | None = None,
        labels: bytes | None = None,
        estimate: Estimate | None = None,
    ) -> None:
        """Stores a response and returns when it is on the disk, or raises StoreFull.

        `estimate` is what it came to beyond its own figures, where it has none.
        """
        metadata = metadata or ResponseMetadata()
        row = (request.key, *metadata, time.time(), request.body, response, labels)
        if estimate is not None:
            values = (request.key, *estimate)
            self._queue("INSERT OR REPLACE INTO estimates VALUES (?, ?, ?)", values)
        await self._submit(_INSERT, row)

    async def persist_no_answer(
        self, request: RequestKey, response: bytes, metadata: ResponseMetadata
    ) -> None:
        """Stores what was paid for and holds no answer, where no request finds it."""
        aside = RequestKey(f"{request.key}/{time.time_ns()}", request.body)
        await self.persist(aside, response, metadata)

    async def set_aside(self, key: str) -> None:
        """Keeps the response under a key where no request finds it: it is no answer."""
        await self._submit(_SET_ASIDE, (key,))

    async def persist_failure(self, key: str, reason: str, run: str, teacher: str) -> None:
        """Notes that a request failed for good, so that no request goes without an account."""
        values = (key, run, teacher, reason, time.time())
        await self._submit("INSERT INTO failures VALUES (?, ?, ?, ?, ?)", values)

    def failed_before(self, key: str) -> bool:
        """Whether a request failed for good in an earlier run."""
        return key in self._failed

    @functools.cached_property
    def _failed(self) -> set[str]:
        return {key for (key,) in self._reader.execute("SELECT key FROM failures")}

    async def persist_fallback_teacher(self, key: str, teacher: str) -> None:
        """Notes which teacher answered in place of the one whose request has this key."""
        await self._submit("INSERT OR REPLACE INTO stand_ins VALUES (?, ?)", (key, teacher))

    def fallback_teacher(self, key: str) -> str | None:
        """The teacher that `persist_fallback_teacher` noted, so that a rerun asks the same one."""
        row = self._one("SELECT teacher FROM stand_ins WHERE key = ?", key)
        return row[0] if row else None

    async def persist_batch(self, batch: Batch, endpoint: str) -> None:
        """Notes a batch at a provider, or what is newly known of it."""
        lines = b"\n".join(request.body for request in batch.requests)
        packed = await asyncio.to_thread(compress, lines)
        values = (batch.file, batch.id, endpoint, packed, batch.created)
        await self._submit("INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?)", values)

    async def end_batch(self, file: str) -> None:
        """Forgets a batch: nothing more is to come of it."""
        await self._submit("DELETE FROM batches WHERE file = ?", (file,))

    def batches(self, endpoint: str) -> list[Batch]:
        """The batches of an endpoint that are noted, with their requests that lack a response."""
        rows = self._reader.execute(
            "SELECT file, id, created, requests FROM batches WHERE endpoint = ? ORDER BY created",
            (endpoint,),
        )
        batches = []
        for file, id, created, packed in rows.fetchall():
            try:
                bodies = decompress(packed).split(b"\n")
            except ValueError as error:
                raise damaged_store(self.path, error) from error
            requests = [RequestKey(hashlib.sha256(body).hexdigest(), body) for body in bodies]
            batches.append(Batch(file, id, created, self.unanswered(requests)))
        return batches

    def unanswered(self, requests: Sequence[RequestKey]) -> list[RequestKey]:
        """Those of some requests that have no response here."""
        sql = "SELECT 1 FROM responses WHERE key = ?"
        return [request for request in requests if self._one(sql, request.key) is None]

    def count(self) -> int:
        """How many responses the store holds, without those that were set aside."""
        sql = f"SELECT count(*) FROM responses WHERE {ANSWERS}"
        return int(self._reader.execute(sql).fetchone()[0])

    def spent(self, run: str) -> dict[str, Usage]:
        """What the responses that a run bought came to, by teacher, estimates included."""
        sql = (
            "SELECT teacher, sum(tokens), sum(coalesce(usd, 0.0)) FROM estimates "
            "JOIN responses USING (key) WHERE run = ? GROUP BY teacher"
        )
        estimated = {name: sums for name, *sums in self._reader.execute(sql, (run,))}
        spent = {}
        for name, sums in bought(self.path, run).items():
            tokens, usd = estimated.get(name, (0, 0.0))
            tokens += sums.prompt_tokens + sums.completion_tokens
            spent[name] = Usage(sums.responses, tokens, sums.usd + usd)
        return spent

    def close(self) -> None:
        """Waits for what is still to be written and closes the file."""
        self._writes.put(None)
        self._thread.join()
        self._reader.close()

    def _one(self, sql: str, key: str) -> Any:
        try:
            return self._reader.execute(sql, (key,)).fetchone()
        except sqlite3.DatabaseError as error:
            raise damaged_store(self.path, error) from error

    def _check_version(self) -> None:
        version = self._reader.execute("PRAGMA user_version").fetchone()[0]
        tables = self._reader.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and version != VERSION:
            raise UserError(
                f"response store {self.path}: of version {version}, and this is version {VERSION}"
            )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
        # Three of a rollback journal's fsyncs become one, and readers never wait for the writer.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # what was paid for outlives a power cut
        return connection

    def _fill_disk_reserve(self) -> None:
        if not self._disk_reserve.exists() or self._disk_reserve.stat().st_size < RESERVE_BYTES:
            try:
                self._disk_reserve.write_bytes(b"\0" * RESERVE_BYTES)
            except OSError:
                self._disk_reserve.unlink(missing_ok=True)
                raise

    async def _submit(self, sql: str, values: Sequence[Any]) -> None:
        # Whoever waits may be cancelled; what was paid for is in the queue and is written.
        await self._queue(sql, values)

    def _queue(self, sql: str, values: Sequence[Any]) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._writes.put(_Write(sql, values, done, loop))
        return done

    def _write_all(self) -> None:
        connection = self._connect()
        closing = False
        while not closing:
            batch = [self._writes.get()]
            while not self._writes.empty() and len(batch) < 1000:
                batch.append(self._writes.get())
            closing = None in batch
            writes = [write for write in batch if write is not None]
            error = self._commit(connection, writes)
            # One wake-up a batch and loop, not one a response.
            for loop in {write.loop for write in writes}:
                waiting = [write.done for write in writes if write.loop is loop]
                with contextlib.suppress(RuntimeError):  # its loop has ended: nobody waits
                    loop.call_soon_threadsafe(_settle, waiting, error)
        connection.close()

    def _commit(self, connection: sqlite3.Connection, writes: list[_Write]) -> Exception | None:
        rows = [(write.sql, _packed(write)) for write in writes]
        for attempt in (1, 2):
            try:
                with connection:
                    for sql, values in rows:
                        connection.execute(sql, values)
                return None
            except sqlite3.Error as error:
                if attempt == 1 and self._disk_reserve.exists():
                    self._disk_reserve.unlink()
                    continue
                return StoreFull(f"{self.path}: {error}")
        return None


def _packed(write: _Write) -> Sequence[Any]:
    if write.sql is not _INSERT:
        return write.values
    *noted, request, response, labels = write.values
    return (*noted, compress(request), compress(response), labels)


def _settle(waiting: list[asyncio.Future[None]], error: Exception | None) -> None:
    for done in waiting:
        if done.done():  # cancelled
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
