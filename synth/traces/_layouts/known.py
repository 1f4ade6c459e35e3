"""How data sets of traces are laid out: a table, and finding which row of it fits.

A layout says which columns hold what. Columns are looked for in the order given, without regard to
case, and the first that a row has is taken.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

_TABLES = tomllib.loads(Path(__file__).with_name("layouts.toml").read_text(encoding="utf-8"))
ROLES: dict[str, str] = _TABLES["roles"]  # what a column can be
_COMMON: dict[str, list[str]] = _TABLES["common"]


@dataclass(frozen=True)
class Layout:
    """One way in which traces are laid out.

    Attributes:
        name: As a config says it.
        about: What it is, and which published data sets use it.
        needs: Roles that must have a column; a layout fits where they all do.
        columns: Columns of its roles, before those that are common.
        per_sample: Columns that are lists beside a list of responses.
        repeats: Columns left out of the metadata: they say again what another one says.
        missing: What stands in a cell that is empty.
        short_solution: Whether a short solution is itself the reference answer.
    """

    name: str
    about: str
    needs: Sequence[str]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    per_sample: Sequence[str] = ()
    repeats: Sequence[str] = ()
    missing: Sequence[str] = ()
    short_solution: bool = False

    def roles(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
        """Returns the columns of every role, as the rows spell them.

        A column that the layout itself gives a role has no other.
        """
        taken = {name for names in self.columns.values() for name in names}
        common = {role: [n for n in names if n not in taken] for role, names in _COMMON.items()}
        spelt: dict[str, list[str]] = {}
        for column in dict.fromkeys(column for row in rows for column in row):
            spelt.setdefault(column.lower(), []).append(column)
        return {
            role: tuple(dict.fromkeys(c for name in names for c in (name, *spelt.get(name, ()))))
            for role, names in {**common, **self.columns}.items()
        }

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has what the layout needs."""
        filled = {column.lower() for column, value in row.items() if value is not None}
        return all(filled.intersection(self.columns[role]) for role in self.needs)


def _read_layout(entry: dict[str, Any]) -> Layout:
    columns = {
        role: _TABLES["usual"][role] if names == "usual" else names
        for role, names in entry["columns"].items()
    }
    return Layout(**{**entry, "columns": columns})


LAYOUTS = tuple(map(_read_layout, _TABLES["layouts"]))


def choose_layout(
    name: str, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]
) -> Layout:
    """Returns the layout that a config names or that the first rows show, with its own columns.

    Args:
        name: A layout, or `auto`.
        columns: A column for each role that the config says itself.
        rows: The first rows of the data.

    Raises:
        LookupError: None fits any of the rows.
    """
    rows = list(rows)
    # A config that names all that is needed leaves nothing to be found.
    complete = "messages" in columns or ("question" in columns and "response" in columns)
    if name == "auto" and complete:
        layout = Layout("columns", "as the config says", ())
    else:
        tried = [layout for layout in LAYOUTS if name in ("auto", layout.name)]
        fits = {layout.name: sum(map(layout.fits, rows)) for layout in tried}
        layout = max(tried, key=lambda layout: fits[layout.name])
        if not fits[layout.name] and not (columns and name != "auto"):
            raise LookupError(layout.name if name != "auto" else "")
    config_columns = {role: (column,) for role, column in columns.items()}
    return replace(layout, columns={**layout.columns, **config_columns})
