"""Files that are written whole or not at all, and JSON in them."""

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
    """Open a file that takes the place of `path` when the block ends well, and is on the disk then.

    Args:
        path: The file; folders above it are made.
        mode: `wb`, or `w` for UTF-8 text.
        partial: What it is called until it is whole; by default `path` with `.partial` behind.

    Example:
        >>> with atomic_write(folder / "page.html", "w") as file:
        ...     file.write(page)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial or path.with_name(path.name + ".partial")
    with partial.open(mode, encoding=None if "b" in mode else "utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is at every moment either the old one or the new one."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Return the JSON of a file, or None where there is no such file.

    Raises:
        UserError: The file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
