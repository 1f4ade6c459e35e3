"""Rows of Parquet, a page at a time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from synth.core._readers.row import CHUNK, Row, Rows, too_long
from synth.core.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

# Rows are read so many bytes at a time, or one row where that is more.
_BATCH_BYTES, _BATCH_ROWS = 16 * 2**20, 1_000


def parquet_rows(path: Path, max_bytes: int) -> Rows:
    """Yields the rows of a file. Raises UserError where it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # Pages are read as they are needed: a row group may hold gigabytes.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK) as file:
            names = Counter(file.schema_arrow.names)
            if twice := [name for name, count in names.items() if count > 1]:
                raise UserError(f"{path}: two columns have the same name, {twice[0]!r}")
            for batch in file.iter_batches(_batch_rows(file.metadata)):
                for values in batch.to_pylist():
                    number += 1
                    place = f"{path}:{number}"
                    if any(isinstance(v, str) and len(v) > max_bytes for v in values.values()):
                        yield Row(place, None, too_long(max_bytes))
                    else:
                        yield Row(place, values)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        after = f" after row {number}" if number else ""
        raise UserError(f"{path}: not a sound Parquet file{after} ({error})") from error


def _batch_rows(file: pq.FileMetaData) -> int:
    groups = [file.row_group(index) for index in range(file.num_row_groups)]
    largest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return int(max(1, min(_BATCH_ROWS, _BATCH_BYTES / max(1, largest))))
