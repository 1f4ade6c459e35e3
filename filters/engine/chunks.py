"""A data set of records in pieces: what one process judges at a time."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from synth.core.errors import UserError
from synth.core.record import Record, from_row

ROWS = 200


class Chunk(NamedTuple):
    """Some rows of a row group of a shard; `number` counts the pieces of a data set."""

    number: int
    shard: str
    group: int
    start: int
    stop: int


def pieces_of(folder: Path, split: str) -> list[Chunk]:
    """The pieces of a split, in the data's order.

    Raises:
        UserError: A shard is missing or is no sound Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = sorted((folder / "data").glob(f"{split}-*-of-*.parquet"))
    if not shards:
        raise UserError(f"{folder}: no shards of the split {split!r}")
    found: list[Chunk] = []
    for shard in shards:
        try:
            meta = pq.read_metadata(shard)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{shard}: not a sound Parquet file ({error})") from error
        for group in range(meta.num_row_groups):
            rows = meta.row_group(group).num_rows
            for start in range(0, rows, ROWS):
                found.append(Chunk(len(found), str(shard), group, start, min(rows, start + ROWS)))
    return found


def read_piece(piece: Chunk, rows: Sequence[int] | None = None) -> list[Record]:
    """The records of a piece.

    Args:
        piece: Where they lie.
        rows: Which of them, counted from its first; all by default.

    Raises:
        UserError: Its shard is damaged, or holds no records.
    """
    import pyarrow as pa

    try:
        table = _group(piece.shard, piece.group).slice(piece.start, piece.stop - piece.start)
        if rows is not None and len(rows) < len(table):
            table = table.take(pa.array(rows, pa.int64()))
        return [from_row(row) for row in table.to_pylist()]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{piece.shard}: not a sound shard of records ({error})") from error


@functools.lru_cache(maxsize=1)
def _group(shard: str, group: int) -> Any:
    """A row group: pieces of the same one follow each other."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(shard) as file:
        return file.read_row_group(group)
