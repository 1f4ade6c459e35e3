"""Tasks from a JSON Lines file, plain or gzipped; a malformed line is named and skipped."""

from __future__ import annotations

from synth.core.readers import MAX_BYTES, Rows, read_rows
from synth.tasks.base import QuestionFile, SourceConfig


class Config(SourceConfig):
    """Options of a JSON Lines file."""

    path: QuestionFile


def build(config: Config) -> Rows:
    """Yields one row a line; blank lines are passed over."""
    return read_rows(config.path, "jsonl", MAX_BYTES)
