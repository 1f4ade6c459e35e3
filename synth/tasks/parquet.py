"""Tasks from a Parquet file or a folder of them, streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, field_validator

from synth.core.errors import UserError
from synth.core.readers import MAX_BYTES, Rows, read_rows
from synth.tasks.base import SourceConfig, located


class Config(SourceConfig):
    """Options of Parquet input."""

    path: Annotated[Path, BeforeValidator(located)]

    @field_validator("path")
    @classmethod
    def _exists(cls, path: Path) -> Path:
        if not path.exists():
            raise ValueError("no such file or folder")
        return path


def build(config: Config) -> Rows:
    """Yields one row a record, in the order of the files' names."""
    files = [config.path] if config.path.is_file() else sorted(config.path.rglob("*.parquet"))
    if not files:
        raise UserError(f"{config.path}: no .parquet files in this folder")
    for path in files:
        yield from read_rows(path, "parquet", MAX_BYTES)
