"""Writes files whole or not at all, and reads and writes JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from synth.core.errors import UserError


@contextmanager
def atomic_write(path: Path, mode: str = "wb", partial: Path | None = None) -> Iterator[IO[Any]]:
    """Opens a file that takes the place of `path` when the block ends well, and is on disk then.

    Folders above it are made. Until the file is whole it is called `partial`, by default `path`
    with `.partial` behind. The mode is `wb`, or `w` for UTF-8 text.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial or path.with_name(path.name + ".partial")
    with partial.open(mode, encoding=None if "b" in mode else "utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that the file is at every moment either the old one or the new one."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Reads a file; None where there is none. Raises UserError where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
