"""Tasks from JSON Lines or a JSON array, plain or compressed; a malformed line is skipped."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator

from synth.core.readers import MAX_BYTES, Rows, read_rows
from synth.tasks.base import QuestionFile, SourceConfig, wrong_source


class Config(SourceConfig):
    """Options of a JSON file."""

    path: QuestionFile

    @field_validator("path")
    @classmethod
    def _is_json(cls, path: Path) -> Path:
        return wrong_source(path, "jsonl")


def build(config: Config) -> Rows:
    """Yields one row a line, or an item of the array; blank lines are passed over."""
    return read_rows(config.path, "jsonl", MAX_BYTES)
