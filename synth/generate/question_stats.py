"""Statistics of each question: how often it was asked and solved, one Parquet row each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from synth.core.record import Record, Task

FILE = "questions.parquet"


class QuestionWriter:
    """Writes `questions.parquet`: how often a question was asked, and how often it was solved.

    Columns: `id`, `source`, `asked`, `passed` (every trace filter), `pass_rate`, `answer` (the
    reference, also where it came by agreement), `by_teacher` (JSON: teacher to [asked, passed]),
    `reasons` (JSON: why answers did not pass), `tokens` (of all its answers).
    """

    GROUP = 10_000

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None

    def write(self, task: Task, records: list[Record]) -> None:
        """Add a question with its records and their verdicts."""
        asked: dict[str, list[int]] = {}
        reasons: dict[str, int] = {}
        tokens = 0
        for record in records:
            assert record.generation is not None
            tally = asked.setdefault(record.generation.teacher, [0, 0])
            rejected = record.rejected_by
            tally[0] += 1
            tally[1] += rejected is None
            tokens += record.generation.completion_tokens or 0
            if rejected is not None:
                reasons[rejected.kind] = reasons.get(rejected.kind, 0) + 1
        passed = sum(tally[1] for tally in asked.values())
        self._rows.append(
            {
                "id": task.id,
                "source": task.source,
                "asked": len(records),
                "passed": passed,
                "pass_rate": passed / len(records) if records else None,
                "answer": records[0].task.answer if records else task.answer,
                "by_teacher": json.dumps(asked),
                "reasons": json.dumps(reasons),
                "tokens": tokens,
            }
        )
        if len(self._rows) >= self.GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        whole, text = pa.int64(), pa.string()
        schema = pa.schema(
            {
                "id": text,
                "source": text,
                "asked": whole,
                "passed": whole,
                "pass_rate": pa.float64(),
                "answer": text,
                "by_teacher": text,
                "reasons": text,
                "tokens": whole,
            }
        )
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=schema))
        self._rows = []
