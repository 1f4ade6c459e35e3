"""Tasks from a Parquet file or a folder of them, streamed."""

from __future__ import annotations

from synth.core.errors import UserError
from synth.core.readers import MAX_BYTES, Rows, read_rows
from synth.tasks.base import QuestionPath, SourceConfig


class Config(SourceConfig):
    """Options of Parquet input."""

    path: QuestionPath


def build(config: Config) -> Rows:
    """Yields one row a record, in the order of the files' names."""
    files = [config.path] if config.path.is_file() else sorted(config.path.rglob("*.parquet"))
    if not files:
        raise UserError(f"{config.path}: no .parquet files in this folder")
    for path in files:
        yield from read_rows(path, "parquet", MAX_BYTES)
