"""What is noted of every response in a store: who bought it, when, and what it came to."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from synth.core.compression import decompress, parse_json
from synth.core.errors import UserError

# What SQLite and the columns beside the blobs take of the file for a row and its key's index.
ROW_BYTES = 280
ANSWERS = "instr(key, '/') = 0"  # without the responses that were set aside
_SIZE = f"length(request) + length(response) + coalesce(length(labels), 0) + {ROW_BYTES}"


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response in the store, without its text; tokens and cost may be unknown."""

    key: str
    run: str  # which run bought it, from the teacher that it called `teacher`
    teacher: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None  # by the price at that time
    latency: float  # seconds that the answer took
    created: float  # the Unix time when it came
    size: int  # bytes that it takes in the store, soft labels included
    request: dict[str, Any]  # the canonical one that the key is the hash of


def entries(path: Path) -> Iterator[StoredResponse]:
    """Yield every response of a store, the newest first; none where there is no such file.

    Those that were set aside, as they hold no answer, are left out.

    Raises:
        UserError: The store is damaged.
    """
    sql = (
        "SELECT key, run, teacher, prompt_tokens, completion_tokens, cost_usd, latency, created, "
        f"{_SIZE}, request FROM responses WHERE {ANSWERS} ORDER BY id DESC"
    )
    for *columns, packed in _read(path, sql):
        try:
            columns.append(parse_json(decompress(packed)))
        except ValueError as error:
            raise damaged_store(path, error) from error
        yield StoredResponse(*columns)


class Usage(NamedTuple):
    """What some responses came to: their number, tokens and dollars."""

    responses: int = 0
    tokens: int = 0
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """What some responses came to together; `unpriced` are those without a cost."""

    responses: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    unpriced: int = 0
    size: int = 0


def bought(path: Path, run: str, since: float = -math.inf) -> dict[str, UsageTotals]:
    """Return what a run has bought from a Unix time on, by teacher."""
    sql = (
        "SELECT teacher, count(*), sum(coalesce(prompt_tokens, 0)), "
        "sum(coalesce(completion_tokens, 0)), sum(coalesce(cost_usd, 0.0)), "
        f"sum(cost_usd IS NULL), sum({_SIZE}) "
        "FROM responses WHERE run = ? AND created >= ? GROUP BY teacher"
    )
    return {teacher: UsageTotals(*figures) for teacher, *figures in _read(path, sql, (run, since))}


def failures(path: Path) -> dict[str, str]:
    """Return the reason, by key, of every request that failed for good."""
    return dict(_read(path, "SELECT key, reason FROM failures ORDER BY rowid"))


def _read(path: Path, sql: str, values: tuple[Any, ...] = ()) -> Iterator[Any]:
    if not path.is_file():
        return
    with contextlib.closing(sqlite3.connect(path)) as connection:
        try:
            yield from connection.execute(sql, values)
        except sqlite3.DatabaseError as error:
            raise damaged_store(path, error) from error


def damaged_store(path: Path, error: Exception) -> UserError:
    """Return the error that says how to take a damaged store up again."""
    return UserError(
        f"response store {path}: damaged, or no response store ({error}); "
        f"`distill recover {path}` keeps every response in it that is sound"
    )
