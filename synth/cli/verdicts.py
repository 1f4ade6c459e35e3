"""`distill why`: what every filter said of a record, and on what grounds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from synth.cli.lookup import find_records, nearest_ids, record_ids
from synth.core.errors import UserError
from synth.core.record import Record, Verdict
from synth.core.run_folder import RunFolder
from synth.core.text.display import printable

_EVIDENCE_SHOWN = 600
# Where the records of a run end up, and what that means; the first that has one is the last word.
_ENDS = (
    ("filter", "kept", "kept"),
    ("filter", "rejected", "dropped by a filter"),
    ("generate", "cut", "cut off at the limit on tokens, and not filtered"),
    ("rewrite", "rejected", "rejected as it was rewritten"),
    ("augment", "rejected", "rejected as a new question"),
    ("tasks", "rejected", "a question that was not asked"),
)


def explain_verdicts(folder: RunFolder, id: str) -> str:
    """Returns what the filters said of a record, or of all records of a question.

    Raises UserError where the run has no filtered traces, or no record and no question has this id.
    """
    folder.need("filter")
    lines_by_id: dict[str, str] = {}
    for stage, split, meaning in _ENDS:
        for record in find_records(folder.stage(stage), split, id):
            if record.id not in lines_by_id:
                lines_by_id[record.id] = "\n".join(_lines(record, meaning))
    if not lines_by_id:
        ids = (name for stage, split, _ in _ENDS for name in record_ids(folder.stage(stage), split))
        near = ", ".join(nearest_ids(ids, id)) or "none"
        raise UserError(f"no record and no question {id!r} in {folder.path}; near: {near}")
    return "\n\n".join(lines_by_id[name] for name in sorted(lines_by_id))


def _lines(record: Record, meaning: str) -> Iterator[str]:
    rejected = record.rejected_by
    by = f", the first of them {rejected.filter}" if rejected and "filter" in meaning else ""
    yield printable(f"{record.id} (question {record.task.id}): {meaning}{by}")
    width = max((len(verdict.filter) for verdict in record.verdicts), default=0)
    for verdict in record.verdicts:
        yield printable(
            f"  {_mark(verdict):4} {verdict.filter:<{width}}  {_grounds(verdict)}".rstrip()
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


def _grounds(verdict: Verdict) -> str:
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
