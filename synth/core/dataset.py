"""Writes and reads data sets: Parquet shards with a manifest; a kill leaves no half of one.

A data set is a folder that `datasets.load_dataset(folder)` reads as it lies:

    manifest.json                        written last; a folder without it does not count
    data/SPLIT-00000-of-00002.parquet
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from synth.core.errors import UserError
from synth.core.files import replace_folder, write_json
from synth.core.record import Record, canonical_json, digest, field_types, from_row, to_row

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
ROWS_PER_SHARD = 20_000
# What is held before it goes to the file, in rows or in bytes of JSON, and how many rows are read
# at a time: keeps memory flat however many rows a shard has, and however long they are.
ROWS_PER_GROUP, BYTES_PER_GROUP, ROWS_READ = 1_000, 8 * 1024 * 1024, 64


def record_schema() -> pa.Schema:
    """Returns the Arrow schema of a record; it comes from the fields and types of the dataclasses.

    It is fixed, so that all shards of all runs fit together. Free-form mappings are JSON text.
    """
    import pyarrow as pa

    scalars = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}

    def struct(cls: type) -> dict[str, Any]:
        return {name: arrow_type(kind) for name, (kind, _) in field_types(cls).items()}

    def arrow_type(kind: Any) -> pa.DataType:
        if get_origin(kind) is list:
            return pa.list_(arrow_type(get_args(kind)[0]))
        if get_origin(kind) is dict:
            return pa.string()
        return scalars[kind] if kind in scalars else pa.struct(struct(kind))

    return pa.schema(struct(Record))


class SplitWriter:
    """Writes the records of one split into shards of a bounded size."""

    def __init__(self, folder: Path, split: str, rows_per_shard: int = ROWS_PER_SHARD) -> None:
        self.folder, self.split, self.rows_per_shard = folder, split, rows_per_shard
        self.rows = 0
        self._content = hashlib.sha256()
        self._shards: list[Path] = []
        self._group: list[dict[str, Any]] = []
        self._held = 0
        self._writer: Any = None

    def write(self, record: Record) -> None:
        """Adds one record."""
        row = to_row(record)
        try:
            text = canonical_json(row).encode()
        except UnicodeEncodeError:
            row = _clean(row)
            text = canonical_json(row).encode()
        self._group.append(row)
        self.rows += 1
        self._content.update(text)
        self._held += len(text)
        full = len(self._group) >= ROWS_PER_GROUP or self._held >= BYTES_PER_GROUP
        if full or self.rows % self.rows_per_shard == 0:
            self._flush()
        if self.rows % self.rows_per_shard == 0:
            self._end_shard()

    @property
    def content(self) -> str:
        """Returns the hash of all records so far."""
        return self._content.hexdigest()

    def close(self) -> None:
        """Ends the last shard (an empty split has one shard with no rows) and names all of them."""
        if self._group or not self._shards:
            self._flush()
        self._end_shard()
        for index, shard in enumerate(self._shards):
            name = f"{self.split}-{index:05d}-of-{len(self._shards):05d}.parquet"
            shard.rename(self.folder / name)

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._shards.append(self.folder / f"{self.split}.{len(self._shards)}.partial")
            self._writer = pq.ParquetWriter(self._shards[-1], record_schema(), compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._group, schema=record_schema()))
        self._group, self._held = [], 0

    def _end_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _clean(value: Any) -> Any:
    """Replaces lone surrogates, which models emit and Parquet's UTF-8 cannot hold, by U+FFFD."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return value
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value


@contextmanager
def writing(
    folder: Path, splits: Iterable[str]
) -> Iterator[tuple[dict[str, SplitWriter], dict[str, Any]]]:
    """Writes a data set beside its place and moves it there whole when the block ends well.

    Yields a writer for each split, and the manifest: a dict to fill; `rows` (counts a split) and
    `content` (a hash of the records) are added to it.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    writers = {split: SplitWriter(partial / "data", split) for split in splits}
    manifest: dict[str, Any] = {}
    yield writers, manifest
    for writer in writers.values():
        writer.close()
    manifest["rows"] = {split: writer.rows for split, writer in writers.items()}
    manifest["content"] = digest({split: writer.content for split, writer in writers.items()})
    write_json(partial / MANIFEST, manifest)
    replace_folder(partial, folder)


def read_split(folder: Path, split: str) -> Iterator[Record]:
    """Streams the records of one split. Raises UserError where a shard is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = sorted((folder / "data").glob(f"{split}-*-of-*.parquet"))
    if not shards:
        raise UserError(f"{folder}: no shards of the split {split!r}")
    for shard in shards:
        try:
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(ROWS_READ):
                    for row in batch.to_pylist():
                        yield from_row(row)
        except (pa.ArrowInvalid, OSError, KeyError, TypeError) as error:
            raise UserError(f"{shard}: not a sound shard of records ({error})") from error
