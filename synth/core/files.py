"""Writes files and folders whole or not at all; JSON; files that installed packages carry."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from synth.core.errors import MissingPackage, UserError

PACKAGE_PREFIX = "package:"


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


def near_file(path: Path) -> str:
    """Returns `; did you mean 'x'?` where a file of the same folder is near, else nothing.

    Where there is no such folder, that is said.
    """
    if not path.parent.is_dir():
        return f"; there is no folder {str(path.parent)!r}"
    names = [other.name for other in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {str(path.with_name(near[0]))!r}?" if near else ""


def sync_folder(folder: Path) -> None:
    """Forces the files of a folder to the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def replace_folder(whole: Path, folder: Path, kept: Path | None = None) -> None:
    """Puts a whole folder in the place of another, which is deleted, or moved to `kept`.

    A kill leaves either of them whole: in its place, or for `finish_replacing` to put there.
    """
    finish_replacing(folder, kept)
    whole.rename(_waiting(folder))
    finish_replacing(folder, kept)


def is_half_replaced(folder: Path) -> bool:
    """Says whether a kill stopped `replace_folder` in its midst."""
    return _waiting(folder).exists() or _old(folder).exists()


def finish_replacing(folder: Path, kept: Path | None = None) -> None:
    """Does what a kill left undone of `replace_folder`; no other process may do so meanwhile."""
    if _waiting(folder).exists():
        if folder.exists():
            shutil.rmtree(kept or _old(folder), ignore_errors=True)  # an older one of that name
            folder.rename(kept or _old(folder))
        with suppress(FileNotFoundError):  # a reader did it at this moment
            _waiting(folder).rename(folder)
    shutil.rmtree(_old(folder), ignore_errors=True)


def find_replaced(folder: Path) -> None:
    """Puts a whole folder in its place, where a kill came after the old one was moved away.

    A reader may do so while another process is at `replace_folder`.
    """
    with suppress(OSError):  # it is there by now
        _waiting(folder).rename(folder)


def _waiting(folder: Path) -> Path:
    """Returns where a whole folder waits while the one in its place is moved away."""
    return folder.with_name(folder.name + ".new")


def _old(folder: Path) -> Path:
    """Returns where a folder lies that is about to be deleted."""
    return folder.with_name(folder.name + ".old")


def package_file(name: str, needed_for: str) -> Path:
    """Returns the path of `package:NAME/FILE`; the package is not imported.

    Raises MissingPackage where the package is not installed, UserError where it has no such file.
    """
    package, _, file = name.removeprefix(PACKAGE_PREFIX).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        # Only its files are read: without what the package itself needs to run.
        distribution = package.replace("_", "-")
        raise MissingPackage(distribution, needed_for, alone=True)
    path = Path(next(iter(spec.submodule_search_locations))) / file
    if not path.is_file():
        carried = sorted(p.name for p in path.parent.glob(f"*{path.suffix}") if p.is_file())
        raise UserError(f"{needed_for}: the package has no such file; it carries {carried}")
    return path
