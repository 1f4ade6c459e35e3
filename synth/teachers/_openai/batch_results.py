"""Result files of batches: where the line of each request is."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import IO, Any

from synth.core.compression import parse_json


@dataclass(frozen=True, slots=True)
class ResultLine:
    """Where a request's line is in a file that was downloaded, and whether it holds an answer."""

    file: IO[bytes]
    start: int
    length: int
    good: bool

    def read(self) -> Any:
        """Return the line as JSON values."""
        self.file.seek(self.start)
        return parse_json(self.file.read(self.length))


def index_lines(file: IO[bytes]) -> dict[str, ResultLine]:
    """Return the lines of a file by the key of their requests; broken lines are left out."""
    lines: dict[str, ResultLine] = {}
    file.seek(0)
    start = 0
    for text in file:
        with contextlib.suppress(ValueError, RecursionError):
            line = parse_json(text)
            if isinstance(line, dict) and isinstance(line.get("custom_id"), str):
                response = line.get("response")
                good = isinstance(response, dict) and response.get("status_code") == 200
                lines[line["custom_id"]] = ResultLine(file, start, len(text), good)
        start += len(text)
    return lines
