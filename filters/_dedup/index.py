"""The index that runs share: a folder with one Parquet file of kept records for each run.

A rerun replaces its own file. A file is written beside its place, brought to the disk and renamed:
a kill leaves the old one or the new one. Runs that write at once do not meet.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from synth.core.errors import UserError
from synth.core.files import atomic_write
from synth.core.record import canonical_json

_BATCH_ROWS = 1000
_METADATA_KEY = b"synth-distill"


class Entry(NamedTuple):
    """A record that a run kept, and its question's id.

    `data` is what it is compared by: a hash, word runs or a vector.
    """

    id: str
    question: str
    data: bytes


def write_entries(
    folder: Path | None, run: str, kind: Mapping[str, Any], entries: Iterable[Entry]
) -> None:
    """Write what a run kept, in the place of what it kept before; nothing without a folder.

    `kind` says what the data is made of: all runs of one index have the same.

    Raises:
        UserError: The folder cannot be written.
    """
    if folder is None:
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = canonical_json({"run": run, "kind": kind}).encode("utf-8", "replace")
    schema = pa.schema(
        {"id": pa.string(), "question": pa.string(), "data": pa.binary()},
        metadata={_METADATA_KEY: metadata},
    )
    try:
        with (
            atomic_write(_path(folder, run)) as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            rows = (Entry(_utf8(e.id), _utf8(e.question), e.data)._asdict() for e in entries)
            while batch := list(islice(rows, _BATCH_ROWS)):
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
        _sync_folder(folder)
    except OSError as error:
        raise UserError(f"index {folder}: cannot be written ({error})") from error


def read_entries(
    folder: Path | None, run: str, kind: Mapping[str, Any]
) -> Iterator[tuple[str, Entry]]:
    """Yield what the other runs kept, with the run's name; nothing without a folder.

    Raises:
        UserError: A file of it is not sound, or holds data of another kind.
    """
    if folder is None:
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in sorted(folder.glob("*.parquet")):
        if path == _path(folder, run):
            continue
        try:
            with pq.ParquetFile(path) as file:
                about = json.loads((file.schema_arrow.metadata or {})[_METADATA_KEY])
                if about["kind"] != kind:
                    raise UserError(
                        f"index {folder}: the run {about['run']!r} filled it with"
                        f" {canonical_json(about['kind'])}, and here it would be"
                        f" {canonical_json(kind)}: name another folder"
                    )
                for batch in file.iter_batches(_BATCH_ROWS):
                    for row in batch.to_pylist():
                        yield about["run"], Entry(row["id"], row["question"], row["data"])
        except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a sound file of an index ({error})") from error


def _path(folder: Path, run: str) -> Path:
    name = hashlib.sha256(run.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return folder / f"{name}.parquet"


def _utf8(text: str) -> str:
    """Return the text without lone surrogates, which Parquet does not hold."""
    return text.encode("utf-8", "replace").decode()


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
