"""Chunks of a data set of records: what one process judges at a time."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from synth.core.errors import UserError
from synth.core.record import Record, from_row

ROWS = 200


class Chunk(NamedTuple):
    """Some rows of a row group of a shard; `number` counts the chunks of a data set."""

    number: int
    shard: str
    group: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.stop - self.start


def chunks_of(folder: Path, split: str) -> list[Chunk]:
    """The chunks of a split, in the data's order.

    Raises:
        UserError: A shard is missing or is no sound Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = sorted((folder / "data").glob(f"{split}-*-of-*.parquet"))
    if not shards:
        raise UserError(f"{folder}: no shards of the split {split!r}")
    chunks: list[Chunk] = []
    for shard in shards:
        try:
            meta = pq.read_metadata(shard)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{shard}: not a sound Parquet file ({error})") from error
        for group in range(meta.num_row_groups):
            rows = meta.row_group(group).num_rows
            for start in range(0, rows, ROWS):
                stop = min(rows, start + ROWS)
                chunks.append(Chunk(len(chunks), str(shard), group, start, stop))
    return chunks


def read_chunk(chunk: Chunk, rows: Sequence[int] | None = None) -> list[Record]:
    """The records of a chunk: all, or those of some rows, counted from its first.

    Raises:
        UserError: Its shard is damaged, or holds no records.
    """
    import pyarrow as pa

    try:
        table = _group(chunk.shard, chunk.group).slice(chunk.start, chunk.rows)
        if rows is not None and len(rows) < len(table):
            table = table.take(pa.array(rows, pa.int64()))
        return [from_row(row) for row in table.to_pylist()]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{chunk.shard}: not a sound shard of records ({error})") from error


@functools.lru_cache(maxsize=1)
def _group(shard: str, group: int) -> Any:
    """A row group: chunks of the same one follow each other."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(shard) as file:
        return file.read_row_group(group)
