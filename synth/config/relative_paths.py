"""Relative paths in a config are relative to the folder that the config lies in."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synth.config.yaml_file import Path_, Source
from synth.core.prompts import shipped

# Keys whose values name a file or a folder, wherever they stand.
_FILES = {"path", "dataset", "model", "lm_eval_path", "python", "environment"}
_TEMPLATES = {"template", "make", "critique", "chat_template"}  # or a name of the package's own
# Keys below which a value is the user's own, and no path.
_FREE = {"values", "extra", "extra_body", "tasks", "columns", "metadata", "engine_options"}
_WEIGHTS = {"transformers", "vllm", "vllm_server"}  # kinds of teacher whose model may be a folder


def config_folder(source: Source) -> Path | None:
    """Returns the folder of a config file; None for a shipped config and for one from Python."""
    path = Path(source.name)
    if not path.is_file() or path.resolve().parent == shipped("configs").resolve():
        return None
    return path.parent


def resolve_paths(source: Source) -> list[str]:
    """Makes the relative paths of a config relative to its folder; returns what the user is told.

    What lies in the working folder alone is taken from there, as before. Values of the command line
    are relative to the working folder.
    """
    folder = config_folder(source)
    if folder is None or folder.resolve() == Path.cwd():
        return []
    notes = []
    for container, key, path in list(_paths(source.data, ())):
        value, place = container[key], source.place(path)
        if not _is_relative(value) or place.startswith("command line"):
            continue
        beside = os.path.join(folder, value)
        here, name = _exists(value), ".".join(map(str, path))
        if _exists(beside):
            container[key] = beside
            if here and not os.path.samefile(beside, value):
                notes.append(f"{place}: {name}: {beside} is taken, not {value} in this folder")
        elif here:
            notes.append(
                f"{place}: {name}: {value} is taken from the working folder, as there is none "
                f"beside the config; {os.path.relpath(value, folder)} names it from there"
            )
    return notes


def _paths(value: Any, path: Path_) -> Iterator[tuple[Any, Any, Path_]]:
    """Yields the place of every value that may name a file: its container, its key, its path."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _paths(item, (*path, index))
        return
    if not isinstance(value, dict):
        return
    is_api = path[:1] == ("teachers",) and len(path) == 2 and value.get("kind") not in _WEIGHTS
    for key, item in value.items():
        if isinstance(item, str):
            is_template = key in _TEMPLATES and item.endswith(".jinja")
            if is_template or (key in _FILES and not (is_api and key == "model")):
                yield value, key, (*path, key)
        elif key not in _FREE or path == ():  # the section `tasks` is none of these
            yield from _paths(item, (*path, key))


def _is_relative(value: str) -> bool:
    special = value.startswith(("~", "package:", "trained:")) or "://" in value
    return bool(value) and not special and "\n" not in value and not os.path.isabs(value)


def _exists(path: str) -> bool:
    return os.path.exists(path) or (
        glob.has_magic(path) and next(glob.iglob(path, recursive=True), None) is not None
    )
