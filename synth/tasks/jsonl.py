"""Tasks from a JSON Lines file, plain or gzipped; a malformed line is named and skipped."""

from __future__ import annotations

import gzip
import json

from pydantic import FilePath

from synth.core.rows import Row, Rows
from synth.tasks.base import SourceConfig


class Config(SourceConfig):
    """Options of a JSON Lines file."""

    path: FilePath


def build(config: Config) -> Rows:
    """Yields one row a line; blank lines are passed over."""
    opener = gzip.open if config.path.suffix == ".gz" else open
    with opener(config.path, "rb") as file:
        for number, line in enumerate(file, 1):
            place = f"{config.path}:{number}"
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Row(place, None, f"not JSON ({error})")
                continue
            if isinstance(values, dict):
                yield Row(place, values)
            else:
                yield Row(place, None, f"an object was expected, this is a {type(values).__name__}")
