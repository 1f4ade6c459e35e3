"""Reads the entries of a config that name a plug-in."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from synth.config.yaml_file import Path_
from synth.core import plugins
from synth.core.errors import UserError


def split_plugin(kind: str, entry: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the name and the options of a plug-in as a config writes them.

    Raises UserError where the entry has another form than the one that its kind is written in.
    """
    key = {"teacher": "kind", "task source": "source", "trace source": "source"}.get(kind)
    if key is not None:
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
            raise UserError(f"a {kind} is written {{{key}: NAME, ...}}")
        return entry[key], {k: v for k, v in entry.items() if k != key}
    if isinstance(entry, str):
        return entry, {}
    if len(entry) != 1 or not isinstance(options := next(iter(entry.values())), dict | None):
        raise UserError(f"a {kind} is written NAME, or NAME: {{option: value, ...}}")
    return str(next(iter(entry))), options or {}


def plugin_config(kind: str, entry: str | dict[str, Any]) -> BaseModel:
    """Checks the options of a plug-in. Raises UserError or pydantic's ValidationError."""
    name, options = split_plugin(kind, entry)
    config: BaseModel = plugins.load(kind, name).Config(**options)
    return config


def plugin_entries(data: dict[str, Any]) -> list[tuple[str, Path_, Any]]:
    """Lists every plug-in that a config names: its kind, its path and its entry as written.

    Works on the raw data, so that a mistake elsewhere hides none here.
    """

    def items(*path: str) -> list[tuple[Path_, Any]]:
        section: Any = data
        for step in path:
            section = section.get(step) if isinstance(section, dict) else None
        if isinstance(section, dict):
            return [((*path, key), value) for key, value in section.items()]
        if isinstance(section, list):
            return [((*path, index), value) for index, value in enumerate(section)]
        return []

    entries = {
        "task source": items("tasks", "train") + items("tasks", "eval"),
        "trace source": items("traces"),
        "teacher": items("teachers"),
        "filter": items("filters")
        + [(path, value) for path, value in items("evaluate") if path[-1] == "verifier"],
    }
    return [
        (kind, path, entry)
        for kind, of_kind in entries.items()
        for path, entry in of_kind
        if isinstance(entry, str | dict)  # other types are reported by the model of the section
    ]


def resolved(kind: str, entry: str | dict[str, Any]) -> Any:
    """Fills in the defaults of a plug-in's entry: a changed default is a changed input."""
    name, _ = split_plugin(kind, entry)
    return {name: plugin_config(kind, entry).model_dump(mode="json")}
