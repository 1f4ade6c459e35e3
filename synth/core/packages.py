"""Files that installed Python packages carry, named `package:NAME/FILE` in a config."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from synth.core.errors import MissingPackage, UserError

PREFIX = "package:"


def package_file(name: str, needed_for: str) -> Path:
    """Returns the path of `package:NAME/FILE`; the package is not imported.

    Raises MissingPackage where the package is not installed, UserError where it has no such file.
    """
    package, _, file = name.removeprefix(PREFIX).partition("/")
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
