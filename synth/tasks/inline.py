"""Tasks written into the config itself."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from synth.core.readers import Row, Rows
from synth.tasks.base import SourceConfig


class Config(SourceConfig):
    """Options of tasks that the config lists."""

    tasks: list[dict[str, Any]] = Field(min_length=1, description="Rows, as a file would hold them")


def build(config: Config) -> Rows:
    """Yields the listed rows."""
    for number, values in enumerate(config.tasks, 1):
        yield Row(f"inline task {number}", values)
