"""Says in plain words why a stage is done again: which key changed, with its old and new value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

_Path = tuple[str | int, ...]

_SHOWN = 60  # characters of a value
_HASH = re.compile(r"(sha256:)?[0-9a-f]{64}")
_ABSENT = object()
# What stands behind a hash among the inputs of a stage, by the first key of its place.
_MEANINGS = {
    "tasks": "the questions are others",
    "generate": "the traces are others",
    "import": "the imported traces are others",
    "rewrite": "the traces are others",
    "augment": "the questions are others",
    "filter": "the kept traces are others",
    "labels": "the stored soft labels are others",
    "eval": "the evaluation questions are others",
    "questions": "the evaluation questions are others",
    "prompt": "the text of the prompt was changed",
    "prompts": "the text of the prompt was changed",
    "template": "the text of the chat template was changed",
    "tokenizer": "the student's tokenizer is another",
    "weights": "the weights of the student are others",
    "before": "the weights of the student are others",
    "after": "the student was trained anew",
    "chain": "the model was trained anew",
}
# Inputs that hold a filter each, as [name, version, options].
_FILTERS = {"stops_on": "filters", "filters": "filters"}
_SANDBOX = {"sandbox": "missing"}  # of a filter that has no other needs
_SHARES = ("weight", "samples")  # of a teacher in `shares`


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns a line for each input that differs: `train.epochs: 2 -> 3`."""
    lines = [_line(*leaf) for leaf in _leaves(_named(old), _named(new), ())]
    return list(dict.fromkeys(lines))


def _named(inputs: dict[str, Any]) -> dict[str, Any]:
    """Returns the inputs with filters by their names, and files and shares as mappings."""
    named = dict(inputs)
    for key in _FILTERS.keys() & named.keys():
        if isinstance(named[key], list):
            filters = named.pop(key)
            named["filters"] = {
                name: {"version": version, **options} for name, version, options in filters
            }
    if named.get("shares"):
        named["shares"] = {
            name: dict(zip(_SHARES, values, strict=True))
            for name, values in named["shares"].items()
        }
    return named


def _leaves(old: Any, new: Any, path: _Path) -> Iterator[tuple[_Path, Any, Any]]:
    """Yields each place where the two differ, as deep as both are of one form."""
    if path[:1] == ("files",) and len(path) == 2:
        if old != new:
            yield path, old, new
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _leaves(old.get(key, _ABSENT), new.get(key, _ABSENT), (*path, key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _leaves(before, after, (*path, index))
    elif old != new:
        yield path, old, new


def _line(path: _Path, old: Any, new: Any) -> str:
    first, *rest = path
    if first == "files":
        return _file_line(str(rest[0]), old, new)
    if first == "around" and (rest[1:] == ["sandbox"] or _SANDBOX in (old, new)):
        now = "none" if old is _ABSENT else "one now"
        return f"filters.{rest[0]}: a sandbox for code: there is {now}"
    if first == "around":  # what a filter depends on besides its options
        path = ("filters", *rest)
    elif first == "shares":
        path = ("teachers", *rest)
    if "code" in path[1:]:  # of a user's own filter
        return f"{'.'.join(map(str, path[: path.index('code')]))}: its code was changed"
    key = ".".join(map(str, path))
    if _is_hash(old) or _is_hash(new):
        # The innermost name that says something: a filter's weights, a chain's model.
        names = [str(step) for step in reversed(path) if str(step) in _MEANINGS]
        return f"{key}: {_MEANINGS[names[0]] if names else 'it was changed'}"
    if old is _ABSENT and isinstance(new, dict):
        return f"{key}: it is new"
    if new is _ABSENT and isinstance(old, dict):
        return f"{key}: it is gone"
    return f"{key}: {_shown(old)} -> {_shown(new)}"


def _file_line(name: str, old: Any, new: Any) -> str:
    if old is _ABSENT:
        return f"the file {name} is new"
    if new is _ABSENT:
        return f"the file {name} is not named any more"
    (size_before, _), (size, changed_ns) = old, new
    if size_before != size:
        return f"the file {name} was changed: {size_before:,} -> {size:,} bytes"
    written = datetime.fromtimestamp(changed_ns / 1e9).strftime("%Y-%m-%d %H:%M:%S")
    return f"the file {name} was written again, {written}"


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _shown(value: Any) -> str:
    if value is None or value is _ABSENT:
        return "not set"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
