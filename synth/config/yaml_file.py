"""Reads a config: YAML with the line of every key, dotted overrides, every mistake at once."""

from __future__ import annotations

import copy
import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from synth.config.key_hints import key_hint
from synth.config.secret_values import shown, shown_override
from synth.config.yaml_text import Path_ as Path_
from synth.config.yaml_text import decode, parse_mapping, parse_value
from synth.core.errors import ConfigError, Problem, UserError, nearest
from synth.core.files import near_file
from synth.core.prompts import shipped

_KEY = re.compile(r"([a-z_]+(?:\.[\w-]+)+): ")  # at the head of a message


@dataclass
class Source:
    """A config as written: plain values, and where each of them stands."""

    name: str  # the file as the user named it
    data: dict[str, Any]  # plain dicts, lists and scalars
    lines: dict[Path_, int] = field(default_factory=dict)  # of each key or list item, from 1
    # Paths that were set on the command line, with the argument that did it.
    overridden: dict[Path_, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # for the user, such as which file was taken

    def place(self, path: Path_) -> str:
        """Returns `FILE:LINE` of a path, or of the nearest thing above it that has a line."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.overridden:
                return f"command line ({shown_override(self.overridden[path[:end]])})"
            if path[:end] in self.lines:
                return f"{self.name}:{self.lines[path[:end]]}"
        return self.name

    def placed(self, message: str) -> str:
        """Puts the place of the key that a message begins with before it, where it is known."""
        key = _KEY.match(message)
        place = self.place(tuple(key[1].split("."))) if key else self.name
        return message if place == self.name else f"{place}: {message}"

    def problem(self, path: Path_, message: str) -> Problem:
        """Returns a mistake at a path."""
        return Problem(self.place(path), ".".join(map(str, path)), message)


def config_names() -> list[str]:
    """Lists the configs that come with the package."""
    return sorted(path.stem for path in shipped("configs").glob("*.yaml"))


def read_config(name: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> Source:
    """Reads a config file, one of the package's own by its bare name, or a dict from Python.

    An override is `dotted.key=value`, the value in YAML; a list item is named by its number.
    Raises UserError where there is no such file, it is not YAML, or an override fits nowhere.
    """
    if isinstance(name, str):
        source = _read_file(name)
    else:
        source = Source("config", copy.deepcopy(dict(name)))
    for override in overrides:
        _override(source, override)
    return source


def _read_file(name: str) -> Source:
    path = Path(name)
    if not path.is_file() and name in config_names():
        path = shipped("configs") / f"{name}.yaml"
    try:
        text = decode(name, path.read_bytes())
    except FileNotFoundError:
        raise UserError(_no_config(path)) from None
    except IsADirectoryError:
        raise UserError(f"{name}: a folder; give the config, a YAML file") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error})") from error
    return parse_config(str(path) if path.name != name else name, text)


def _no_config(path: Path) -> str:
    """Says that there is no such file, and what is near: a file of its folder, a shipped config."""
    known = config_names()
    near = difflib.get_close_matches(path.stem, known, n=1)
    hint = near_file(path) or (f"; did you mean the shipped config {near[0]!r}?" if near else "")
    is_data = path.suffix not in ("", ".yaml", ".yml")
    shipped_ones = "" if hint or is_data else f"; shipped configs: {', '.join(known)}"
    what = "no such file" if path.suffix or len(path.parts) > 1 else "no such file or config"
    return f"{path}: {what}{hint}{shipped_ones}"


def parse_config(name: str, text: str) -> Source:
    """Parses YAML 1.2 and remembers where each key stands. Raises UserError as `parse_mapping`."""
    return Source(name, *parse_mapping(name, text))


def _override(source: Source, argument: str) -> None:
    key, equals, text = argument.partition("=")
    said = repr(shown_override(argument))
    if not equals or not key:
        raise UserError(f"{said}: an override is written dotted.key=value")
    try:
        value = parse_value(text) if text else None
    except ValueError as error:
        raise UserError(f"{said}: the value is not YAML") from error
    path: Path_ = ()
    container: Any = source.data
    parts = key.split(".")
    for depth, _ in enumerate(parts):  # changes where an item is called by its name
        parts[depth:] = _whole_name_first(container, parts[depth:])
        part, last = parts[depth], depth == len(parts) - 1
        step: Any = part
        if isinstance(container, list):
            step = _item(container, part)
            if step is None:
                names = [x if isinstance(x, str) else next(iter(x or [""])) for x in container]
                hint = "" if part.isdigit() else nearest(part, map(str, names))
                place = ".".join(map(str, path))
                raise UserError(f"{said}: {place} has {len(container)} items{hint}")
            if not part.isdigit():
                parts.insert(depth + 1, part)  # filters.NAME.x stands for filters.3.NAME.x
                last = False
            # A filter without options stands there as a bare name: it is about to get some.
            if not last and container[step] == parts[depth + 1]:
                container[step] = {container[step]: {}}
        elif not isinstance(container, dict):
            raise UserError(f"{said}: {'.'.join(map(str, path))} is a value, not a mapping")
        path = (*path, step)
        if last:
            container[step] = value
            source.overridden[path] = argument
        elif isinstance(container, dict) and container.get(part) is None:
            container[part] = {}
            source.overridden[path] = argument
            container = container[part]
        else:
            container = container[step]


def _whole_name_first(container: Any, parts: list[str]) -> list[str]:
    """Joins the first parts where they are one name with dots in it, such as `my.filters.mine`."""
    names: set[Any] = set(container) if isinstance(container, dict) else set()
    for item in container if isinstance(container, list) else ():
        names |= set(item) if isinstance(item, dict) else {item} if isinstance(item, str) else set()
    for end in range(len(parts), 1, -1):
        if (name := ".".join(parts[:end])) in names:
            return [name, *parts[end:]]
    return parts


def _item(items: list[Any], part: str) -> int | None:
    """Returns the index of the item that a step means: by its number, or the name of a filter."""
    if part.isdigit():
        return int(part) if int(part) < len(items) else None
    named = [i for i, x in enumerate(items) if x == part or (isinstance(x, dict) and part in x)]
    return named[0] if len(named) == 1 else None


def problems_of(
    source: Source,
    error: ValidationError,
    model: type[BaseModel],
    at: Path_ = (),
    run: type[BaseModel] | None = None,
) -> Iterator[Problem]:
    """Yields each mistake that pydantic found, with its line and the nearest right name.

    The error is what the validation by `model` of the value at the path `at` raised; `run` is the
    model of a whole config, which tells where an unknown key belongs.
    """
    seen: set[Path_] = set()
    for item in error.errors(include_url=False):
        path = _real_path(source.data, at, item["loc"])
        if path in seen:  # the other branches of a union
            continue
        seen.add(path)
        if item["type"] == "extra_forbidden":
            keys = _keys_at(model, item["loc"][:-1])
            hint = key_hint(path, keys, run) if run else nearest(str(path[-1]), keys)
            message = f"unknown key{hint}"
        elif item["type"] == "missing":
            path = (*path, *(part for part in item["loc"][len(path) - len(at) :]))
            message = "required and not given"
        elif item["type"] == "secret":  # its value is never printed
            message = item["msg"]
        elif item["type"] == "path_not_file":
            message = f"no such file: {item['input']}{near_file(Path(str(item['input'])))}"
        elif item["type"] == "value_error" and isinstance(item["input"], dict | list):
            path, message = _placed(source.data, path, str(item["ctx"]["error"]))
        else:
            got = shown(item["input"], path[-1] if path else "")
            got = got if len(got) <= 60 else got[:57] + "..."
            message = f"{item['msg'].removeprefix('Value error, ')}, got {got}"
        yield source.problem(path, message)


def _placed(data: Any, path: Path_, message: str) -> tuple[Path_, str]:
    """Returns the path that a message of a section begins with, and the rest of the message.

    `generate.teachers.0: no teacher 'x'` stands at that item; the path may be one in the section.
    """
    key, colon, rest = message.partition(": ")
    steps: list[str | int] = [int(step) if step.isdecimal() else step for step in key.split(".")]
    for start in (path, ()):
        value = data
        for step in (*start, *steps):
            keys = range(len(value)) if isinstance(value, list) else value
            if not isinstance(keys, Mapping | range) or step not in keys:
                break
            value = value[step]
        else:
            if colon:
                return (*start, *steps), rest
    return path, message


def _real_path(data: Any, at: Path_, loc: Sequence[str | int]) -> Path_:
    """Returns the part of a pydantic location that is in the file (union tags are left out)."""
    value: Any = data
    for step in at:
        value = value[step]
    path = at
    for step in loc:
        keys = range(len(value)) if isinstance(value, list) else value
        if isinstance(keys, Mapping | range) and step in keys:
            value = value[step]
            path = (*path, step)
    return path


def _keys_at(model: Any, loc: Sequence[str | int]) -> list[str]:
    """Lists the keys that a model knows at a location inside it."""
    for step in loc:
        fields = _fields(model)
        model = _inner(fields[step].annotation if step in fields else model)
    return list(_fields(_inner(model)))


def _fields(model: Any) -> dict[Any, Any]:
    is_model = isinstance(model, type) and issubclass(model, BaseModel)
    return model.model_fields if is_model else {}


def _inner(annotation: Any) -> Any:
    """Returns the model inside `X | None`, `list[X]` and `dict[str, X]`."""
    while (origin := get_origin(annotation)) is not None:
        options = [arg for arg in get_args(annotation) if arg is not type(None)]
        if origin in (Union, types.UnionType):
            models = [a for a in options if isinstance(a, type) and issubclass(a, BaseModel)]
            annotation = models[0] if models else options[0]
        else:
            annotation = options[-1]
    return annotation


def raise_if_any(problems: Sequence[Problem], source: Source) -> None:
    """Raises ConfigError with all problems in the order in which they stand in the file."""

    def order(problem: Problem) -> tuple[int, str]:
        line = problem.place.rpartition(":")[2]
        return (int(line) if line.isdigit() else 0, problem.key)

    if problems:
        raise ConfigError(sorted(problems, key=order))
