"""Finds what a config names: one file adds one filter, teacher or task source.

A name in YAML is the file's name in the package of its kind; a dotted path (`my_package.my_filter`)
loads the user's own module in the same way. Each such module defines a pydantic `Config` and a
factory `build`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel, ConfigDict

from synth.core.errors import DistillError, UserError, nearest

# What a config calls each kind, and the package that its files lie in.
PACKAGES = {
    "filter": "filters",
    "teacher": "synth.teachers",
    "task source": "synth.tasks",
    "trace source": "synth.traces",
}


class PluginConfig(BaseModel):
    """Base of every plug-in's `Config`: an unknown key is an error, not silence."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


def names(kind: str) -> list[str]:
    """Lists the plug-ins of a kind that come with the package, sorted; imports none of them."""
    modules = pkgutil.iter_modules(_folders(kind))
    public = (m.name for m in modules if not m.ispkg and not m.name.startswith("_"))
    return sorted(name for name in public if name != "base")


def _folders(kind: str) -> list[str]:
    package = importlib.util.find_spec(PACKAGES[kind])
    assert package is not None and package.submodule_search_locations is not None
    return package.submodule_search_locations


def load(kind: str, name: str) -> ModuleType:
    """Imports the module that a config names.

    Raises UserError where there is none, or the user's own lacks `Config` or `build`.
    """
    if "." in name:
        module = _import_foreign(name)
    elif name in names(kind):
        module = importlib.import_module(f"{PACKAGES[kind]}.{name}")
    else:
        raise UserError(f"unknown {kind} {name!r}{nearest(name, names(kind))}")
    for needed in ("Config", "build"):
        if not hasattr(module, needed):
            raise UserError(f"{kind} {name!r}: the module defines no {needed!r}")
    return module


_user_folders: list[str] = []  # where users' own modules are looked for


def search_in(folder: Path | None) -> None:
    """Lets users' own modules be found in a config's folder, and in the working folder."""
    _user_folders[:] = [str(f.resolve()) for f in (folder, Path.cwd()) if f is not None]


def _import_foreign(name: str) -> ModuleType:
    """Imports a user's module by its dotted path; raises UserError where that cannot be done."""
    try:
        return _import_module(name)
    except ModuleNotFoundError:
        pass
    # Behind all others, so that nothing of the user's takes the place of a package. Processes that
    # are started later look there too.
    folders = list(dict.fromkeys(_user_folders or [str(Path.cwd())]))
    sys.path += [folder for folder in folders if folder not in sys.path]
    importlib.invalidate_caches()
    try:
        return _import_module(name)
    except ModuleNotFoundError as error:
        places = f"; looked in the packages of this Python and in {' and '.join(folders)}"
        raise UserError(f"cannot import {name!r} ({error}){places}") from error


def _import_module(name: str) -> ModuleType:
    """Imports a module; raises ModuleNotFoundError where there is none, else UserError."""
    try:
        return importlib.import_module(name)
    except DistillError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f[0]]
        where = f"{frames[-1].filename}:{frames[-1].lineno}"
        if isinstance(error, SyntaxError) and error.filename:
            where = f"{error.filename}:{error.lineno}"
        text = f"{type(error).__name__}: {error}"
        raise UserError(f"cannot import {name!r}: {where}: {text}") from error


def describe(kind: str, name: str) -> str:
    """Returns the first line of a plug-in's docstring, read without importing it."""
    source = Path(_folders(kind)[0], f"{name}.py")
    return (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").split("\n")[0]
