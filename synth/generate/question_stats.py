"""Statistics of each question: how often it was asked and solved, one Parquet row each."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from synth.core.record import Record, Task

FILE = "questions.parquet"
COLUMNS = {
    "id": "string",
    "source": "string",
    "asked": "int64",
    "passed": "int64",
    "pass_rate": "double",
    "answer": "string",
    "by_teacher": "string",
    "reasons": "string",
    "tokens": "int64",
}


class QuestionWriter:
    """Writes `questions.parquet`: how often a question was asked, and how often it was solved.

    `passed` counts the answers that passed every trace filter; `answer` is the reference, also
    where it came by agreement. `by_teacher` (JSON) gives [asked, passed], `reasons` (JSON) counts
    why answers did not pass, and `tokens` is of all the answers.
    """

    GROUP = 10_000

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._rows: list[tuple[Any, ...]] = []
        self._writer: Any = None

    def write(self, task: Task, records: list[Record]) -> None:
        """Add a question with its records and their verdicts."""
        by_teacher: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        reasons: Counter[str] = Counter()
        passed = tokens = 0
        for record in records:
            assert record.generation is not None
            rejected = record.rejected_by
            by_teacher[record.generation.teacher][0] += 1
            by_teacher[record.generation.teacher][1] += rejected is None
            passed += rejected is None
            tokens += record.generation.completion_tokens or 0
            if rejected is not None:
                reasons[rejected.kind] += 1
        asked = len(records)
        answer = records[0].task.answer if records else task.answer
        row = (task.id, task.source, asked, passed, passed / asked if asked else None, answer)
        self._rows.append((*row, json.dumps(by_teacher), json.dumps(reasons), tokens))
        if len(self._rows) >= self.GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(name, pa.type_for_alias(type)) for name, type in COLUMNS.items()])
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in self._rows]
        self._writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        self._rows = []
