"""Training data as tokens in an Arrow file, which training maps instead of holding in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.data.encoding import IGNORED, Encoded, check_dataset
from synth.core.files import atomic_write, read_json, write_json
from synth.core.record import Message, Record, Task

_ROWS_PER_BATCH = 1_000
_RATES = ("pass_rate", "difficulty")


@dataclass(frozen=True)
class Examples:
    """The examples of a training; `examples[i]` reads one from the file."""

    table: Any  # the Arrow table, mapped
    ids: list[str]  # of the records
    lengths: list[int]  # tokens of each example
    labelled: list[int]  # those of them that carry loss
    questions: list[str]  # ids of the tasks
    sources: list[str]  # where the questions are from
    writers: list[str]  # the teacher that wrote the trace, "" where it came from outside
    pass_rates: list[float]  # of the question's answers, -1 where nobody counted
    content: str  # SHA-256 of all tokens and labels

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def largest_id(self) -> int:
        """The largest id of a token in them."""
        import pyarrow.compute as pc

        chunks = self.table["input_ids"].chunks
        return max((pc.max(chunk.flatten()).as_py() or 0 for chunk in chunks), default=0)

    def __getitem__(self, index: int) -> Encoded:
        return Encoded(self.table["input_ids"][index].as_py(), self.table["labels"][index].as_py())


def write_examples(
    tokenizer: Any,
    records: Iterable[Record],
    render_prompt: Callable[[Task], list[Message]],
    max_length: int | None,
    path: Path,
    drop_context: bool = False,
) -> None:
    """Encodes records as the student learns them into a file, with a note of its content beside.

    The arguments and errors are those of `sft.data.encoding.check_dataset`.
    """
    import pyarrow as pa

    ids, text = pa.list_(pa.int32()), pa.string()
    schema = pa.schema(
        {"id": text, "input_ids": ids, "labels": ids, "labelled": pa.int32(), "question": text,
         "source": text, "writer": text, "pass_rate": pa.float64()}
    )  # fmt: skip
    current: list[Record] = []

    def noted() -> Iterator[Record]:
        for record in records:
            current[:] = [record]
            yield record

    total = hashlib.sha256()
    rows: list[dict[str, Any]] = []
    with atomic_write(path) as sink, pa.ipc.new_stream(sink, schema) as writer:
        for example in check_dataset(tokenizer, noted(), render_prompt, max_length, drop_context):
            rows.append(_row(current[0], example))
            tokens = {key: rows[-1][key] for key in ("input_ids", "labels")}
            total.update(repr(tokens).encode())
            if len(rows) == _ROWS_PER_BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
                rows = []
        if rows:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    write_json(path.with_suffix(".json"), {"content": total.hexdigest()})


def _row(record: Record, example: Encoded) -> dict[str, Any]:
    rate = next((v.score for v in record.verdicts if v.filter in _RATES), None)
    return {
        "id": _writable(record.id),
        "input_ids": example.input_ids,
        "labels": example.labels,
        "labelled": sum(label != IGNORED for label in example.labels),
        "question": _writable(record.task.id),
        "source": _writable(record.task.source),
        "writer": _writable(record.generation.teacher if record.generation else ""),
        "pass_rate": -1.0 if rate is None else rate,
    }


def _writable(text: str) -> str:
    """A name without lone surrogates, which Arrow's UTF-8 cannot hold."""
    return text.encode(errors="replace").decode()


def open_examples(path: Path) -> Examples:
    """Maps what `write_examples` wrote."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    return Examples(
        table=table,
        ids=table["id"].to_pylist(),
        lengths=pc.list_value_length(table["input_ids"]).to_pylist(),
        labelled=table["labelled"].to_pylist(),
        questions=table["question"].to_pylist(),
        sources=table["source"].to_pylist(),
        writers=table["writer"].to_pylist(),
        pass_rates=table["pass_rate"].to_pylist(),
        content=(read_json(path.with_suffix(".json")) or {}).get("content", ""),
    )
