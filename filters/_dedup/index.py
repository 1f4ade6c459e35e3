"""What runs kept, on disk: a folder with one Parquet file a run, so that a rerun replaces its own.

A file is written beside its place, brought to the disk and renamed: a kill leaves the old one or
the new one. Runs that write at once do not meet.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from synth.core.errors import UserError
from synth.core.record import canonical_json

_ROWS = 1000
_KEY = b"synth-distill"


class Entry(NamedTuple):
    """A record that a run kept.

    Attributes:
        id: Its id in that run.
        question: The id of its question.
        data: What it is compared by.
    """

    id: str
    question: str
    data: bytes


def save(folder: Path, run: str, kind: Mapping[str, Any], entries: Iterable[Entry]) -> None:
    """Writes what a run kept, in the place of what it kept before.

    Args:
        folder: The index.
        run: Name of the run.
        kind: What its data is made of; all runs of one index have the same.
        entries: The records.

    Raises:
        UserError: The folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        {"id": pa.string(), "question": pa.string(), "data": pa.binary()},
        metadata={_KEY: canonical_json({"run": run, "kind": kind}).encode("utf-8", "replace")},
    )
    path = _path(folder, run)
    partial = path.with_suffix(".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                rest = iter(entries)
                while rows := [
                    {
                        "id": _sound(entry.id),
                        "question": _sound(entry.question),
                        "data": entry.data,
                    }
                    for entry in islice(rest, _ROWS)
                ]:
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _settle(folder)
    except OSError as error:
        raise UserError(f"index {folder}: cannot be written ({error})") from error


def saved(folder: Path, run: str, kind: Mapping[str, Any]) -> Iterator[tuple[str, Entry]]:
    """What the other runs kept, with the run's name; nothing where the folder is not there yet.

    Raises:
        UserError: A file of it is not sound, or holds data of another kind.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in sorted(folder.glob("*.parquet")):
        if path == _path(folder, run):
            continue
        try:
            with pq.ParquetFile(path) as file:
                about = _about(file.schema_arrow.metadata)
                if about["kind"] != kind:
                    raise UserError(
                        f"index {folder}: the run {about['run']!r} filled it with"
                        f" {canonical_json(about['kind'])}, and here it would be"
                        f" {canonical_json(kind)}: name another folder"
                    )
                for batch in file.iter_batches(_ROWS):
                    for row in batch.to_pylist():
                        yield about["run"], Entry(row["id"], row["question"], row["data"])
        except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a sound file of an index ({error})") from error


def _about(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    import json

    about: dict[str, Any] = json.loads((metadata or {})[_KEY])
    return about


def _path(folder: Path, run: str) -> Path:
    name = hashlib.sha256(run.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return folder / f"{name}.parquet"


def _sound(text: str) -> str:
    """Parquet holds no lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def _settle(folder: Path) -> None:
    """Brings the new name to the disk as well."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
