"""Tasks from a CSV file with a header line, plain or compressed; a malformed row is skipped."""

from __future__ import annotations

from pydantic import Field, field_validator

from synth.core.errors import UserError
from synth.core.readers import MAX_BYTES, Rows, read_rows
from synth.tasks.base import QuestionFile, SourceConfig


class Config(SourceConfig):
    """Options of a CSV file."""

    path: QuestionFile
    delimiter: str = Field(",", min_length=1, max_length=1)

    @field_validator("delimiter")
    @classmethod
    def _no_mark(cls, delimiter: str) -> str:
        if delimiter in '"\r\n ':
            raise ValueError("expected a character such as a comma, a semicolon or a tab")
        return delimiter


def build(config: Config) -> Rows:
    """Yields one row a record; all values are text, but for `nan`, `null` and their kin."""
    if not config.path.stat().st_size:
        raise UserError(f"{config.path}: empty; the first line names the columns")
    return read_rows(config.path, "csv", MAX_BYTES, config.delimiter)
