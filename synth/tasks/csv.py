"""Tasks from a CSV file with a header line; a row with too many or too few cells is skipped."""

from __future__ import annotations

import csv

from pydantic import Field

from synth.core.errors import UserError
from synth.core.readers import Row, Rows
from synth.tasks.base import QuestionFile, SourceConfig


class Config(SourceConfig):
    """Options of a CSV file."""

    path: QuestionFile
    delimiter: str = Field(",", min_length=1, max_length=1)


def build(config: Config) -> Rows:
    """Yields one row a record; all values are text."""
    with config.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, delimiter=config.delimiter)
        header = next(reader, None)
        if header is None:
            raise UserError(f"{config.path}: empty; the first line names the columns")
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(f"{config.path}:{reader.line_num}", None, f"not CSV ({error})")
                continue
            place = f"{config.path}:{reader.line_num}"
            if len(cells) == len(header):
                yield Row(place, dict(zip(header, cells, strict=True)))
            elif cells:
                yield Row(place, None, f"{len(cells)} cells where the header has {len(header)}")
