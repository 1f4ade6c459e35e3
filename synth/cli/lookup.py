"""Placeholder."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterator
from pathlib import Path

from synth.core.dataset import MANIFEST
from synth.core.errors import UserError
from synth.core.record import Record, from_row
from synth.core.run_folder import Folder

# Where the records of a run end up, and what that means; the first that has one is the last word.
_ENDS = (
    ("filter", "kept", "kept"),
    ("filter", "rejected", "dropped by a filter"),
    ("generate", "cut", "cut off at the limit on tokens, and not filtered"),
    ("rewrite", "rejected", "rejected as it was rewritten"),
    ("augment", "rejected", "rejected as a new question"),
    ("tasks", "rejected", "a question that was not asked"),
)


_NEAR = 200


def folder_of(name: str) -> Folder:
    """The folder of a run that is named by its folder or by its config."""
    if (Path(name) / "filter" / MANIFEST).is_file():
        return Folder(Path(name))
    if Path(name).is_dir():
        raise UserError(f"{name}: no folder of a run whose traces are filtered")
    from synth.config.validate import load_run

    run, _ = load_run(name)
    return Folder(run.folder)


def _with_id(stage: Path, split: str, id: str) -> Iterator[Record]:
    """The records of a split with this id, or of the question with it; shards are scanned."""
    import pyarrow.dataset as ds

    shards = sorted(map(str, (stage / "data").glob(f"{split}-*-of-*.parquet")))
    if not shards:
        return
    matches = (ds.field("id") == id) | (ds.field("task", "id") == id)
    for row in ds.dataset(shards, format="parquet").to_table(filter=matches).to_pylist():
        yield from_row(row)


def _near(folder: Folder, id: str) -> str:
    """Names that are near, of however many there are."""
    import pyarrow.dataset as ds

    def names() -> Iterator[str]:
        for stage, split, _ in _ENDS:
            shards = sorted(map(str, (folder.stage(stage) / "data").glob(f"{split}-*.parquet")))
            if shards:
                for batch in ds.dataset(shards, format="parquet").to_batches(columns=["id"]):
                    yield from batch["id"].to_pylist()

    def alike(name: str) -> int:
        return sum(a == b for a, b in zip(name, id, strict=False)) - abs(len(name) - len(id))

    few = heapq.nlargest(_NEAR, set(names()), key=alike)
    return ", ".join(difflib.get_close_matches(id, few, n=3) or few[:3]) or "none"
