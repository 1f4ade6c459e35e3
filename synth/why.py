"""`distill why`: what every filter said of a record, and on what grounds."""

from __future__ import annotations

import difflib
import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synth.core.dataset import MANIFEST
from synth.core.display import printable
from synth.core.errors import UserError
from synth.core.record import Record, Verdict, from_row
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
_EVIDENCE_SHOWN = 600
_NEAR = 200


def why(folder: Folder, id: str) -> str:
    """What the filters said of a record, or of all records of a question.

    Args:
        folder: The run's folder.
        id: The id of a record or of a question.

    Raises:
        UserError: The run has no filtered traces, or no record and no question has this id.
    """
    folder.need("filter")
    found: dict[str, str] = {}
    for stage, split, meaning in _ENDS:
        for record in _with_id(folder.stage(stage), split, id):
            if record.id not in found:
                found[record.id] = "\n".join(_lines(record, meaning))
    if not found:
        near = _near(folder, id)
        raise UserError(f"no record and no question {id!r} in {folder.path}; near: {near}")
    return "\n\n".join(found[name] for name in sorted(found))


def folder_of(name: str) -> Folder:
    """The folder of a run that is named by its folder or by its config."""
    if (Path(name) / "filter" / MANIFEST).is_file():
        return Folder(Path(name))
    if Path(name).is_dir():
        raise UserError(f"{name}: no folder of a run whose traces are filtered")
    from synth.config.validate import load_run

    run, _ = load_run(name)
    return Folder(run.folder)


def _lines(record: Record, meaning: str) -> Iterator[str]:
    rejected = record.rejected_by
    by = f", the first of them {rejected.filter}" if rejected and "filter" in meaning else ""
    yield printable(f"{record.id} (question {record.task.id}): {meaning}{by}")
    width = max((len(verdict.filter) for verdict in record.verdicts), default=0)
    for verdict in record.verdicts:
        yield printable(
            f"  {_mark(verdict):4} {verdict.filter:<{width}}  {_said(verdict)}".rstrip()
        )
        if verdict.evidence:
            for line in _evidence(json.loads(verdict.evidence)):
                yield printable(f"       {'':{width}}  {line}")
    if not record.verdicts:
        yield "  no filter judged it"


def _mark(verdict: Verdict) -> str:
    if verdict.drops:
        return "drop"
    return "keep" if verdict.keep else "tag"


def _said(verdict: Verdict) -> str:
    figures = ""
    if verdict.score is not None:
        bound = "" if verdict.threshold is None else f", bound {verdict.threshold:.4g}"
        figures = f"(score {verdict.score:.4g}{bound})"
    return " ".join(part for part in (verdict.reason, figures) if part)


def _evidence(value: dict[str, Any]) -> Iterator[str]:
    for key, item in value.items():
        text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
        if len(text) > _EVIDENCE_SHOWN:
            text = text[:_EVIDENCE_SHOWN] + f" ... ({len(text):,} characters)"
        yield f"{key}: {text}"


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
