"""Finds a run by its folder or config, and a record by its id."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from synth.core.dataset import MANIFEST
from synth.core.errors import UserError
from synth.core.record import Record, from_row
from synth.core.run_folder import RunFolder

# Ids that are compared letter by letter with an unknown one.
_COMPARED = 200
T = TypeVar("T")
_DONE = {"filter": "traces are filtered", "generate": "generation is done"}


def find_run(name: str, stage: str | None = None) -> tuple[RunFolder, Path]:
    """Returns the folder of a run, which its folder or its config names, and its response store.

    Raises UserError where the named folder is of no run with this stage (`filter` or `generate`)
    done, or the config is wrong.
    """
    path = Path(name)
    if path.is_dir():
        if stage is not None and not (path / stage / MANIFEST).is_file():
            raise UserError(f"{name}: no folder of a run whose {_DONE[stage]}")
        return RunFolder(path), path.parent / "responses.sqlite"
    from synth.config.validate import load_run

    run, _ = load_run(name)
    return RunFolder(run.folder), run.store_path


def find_records(stage: Path, split: str, id: str) -> Iterator[Record]:
    """Yields the records of a split with this id, or of the question with it."""
    import pyarrow.dataset as ds

    matches = (ds.field("id") == id) | (ds.field("task", "id") == id)
    yield from _scan(stage, split, from_row, filter=matches)


def record_ids(stage: Path, split: str) -> Iterator[str]:
    """Yields the ids of all records of a split."""
    yield from _scan(stage, split, lambda row: str(row["id"]), columns=["id"])


def _scan(
    stage: Path, split: str, convert: Callable[[dict[str, Any]], T], **options: Any
) -> Iterator[T]:
    """Yields the rows of a split in their order; raises UserError where a shard is damaged."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    for shard in sorted((stage / "data").glob(f"{split}-*-of-*.parquet")):
        try:
            for batch in ds.dataset(str(shard), format="parquet").to_batches(**options):
                yield from map(convert, batch.to_pylist())
        except (pa.ArrowInvalid, OSError, KeyError, TypeError) as error:
            raise UserError(f"{shard}: not a sound shard of records ({error})") from error


def nearest_ids(ids: Iterable[str], id: str) -> list[str]:
    """Returns up to three of the ids that are most like an unknown one."""

    def likeness(candidate: str) -> int:
        same = sum(a == b for a, b in zip(candidate, id, strict=False))
        return same - abs(len(candidate) - len(id))

    candidates = heapq.nlargest(_COMPARED, dict.fromkeys(ids), key=likeness)
    return difflib.get_close_matches(id, candidates, n=3) or candidates[:3]
