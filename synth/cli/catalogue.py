"""`distill list`: all that a config can name, and what one of these takes."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from synth.config.yaml_file import config_names
from synth.core import plugins
from synth.core.errors import UserError, nearest
from synth.core.prompts import load_prompt, prompt_names, shipped
from synth.core.text.display import shown
from synth.traces import LAYOUTS

_KINDS = {
    "filters": "filter",
    "teachers": "teacher",
    "tasks": "task source",
    "traces": "trace source",
}
KINDS = [*_KINDS, "layouts", "prompts", "configs"]
_ALIASES = {"sources": "tasks", "filter": "filters", "teacher": "teachers", "prompt": "prompts"}
_WIDTH = 96
_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "mapping",
    "array": "list",
    "null": "null",
}


def catalogue(kind: str | None, name: str | None = None) -> str:
    """Returns all that a config can name, one kind of it, or all about one name, as a text."""
    kind = _ALIASES.get(kind or "", kind)
    if kind is not None and kind not in KINDS:
        raise UserError(f"nothing to list under {kind!r}{nearest(kind, KINDS)}")
    if kind is not None and name is not None:
        return "\n".join(_about(kind, name))
    lines = []
    for title in [kind] if kind else KINDS:
        entries = _entries(title)
        width = max(map(len, entries), default=0)
        lines += [title, *(f"  {key:<{width}}  {text}".rstrip() for key, text in entries.items())]
    return "\n".join(lines)


def _entries(kind: str) -> dict[str, str]:
    if plugin := _KINDS.get(kind):
        return {name: plugins.describe(plugin, name) for name in plugins.names(plugin)}
    if kind == "layouts":
        return {layout.name: layout.about for layout in LAYOUTS}
    if kind == "prompts":
        return {name: load_prompt(name).description for name in prompt_names()}
    return {name: _first_sentence(_comment(name)) for name in config_names()}


def _about(kind: str, name: str) -> list[str]:
    """Returns what is known of one name, in lines."""
    if plugin := _KINDS.get(kind):
        return _about_plugin(plugin, name)
    if kind == "prompts":
        prompt = load_prompt(name)
        variables = [f"  {key}: {text}" for key, text in prompt.variables.items()]
        return [
            f"{name}  {prompt.description}",
            "",
            "variables",
            *variables,
            "",
            prompt.body.strip(),
        ]
    entries = _entries(kind)
    if name not in entries:
        raise UserError(f"nothing called {name!r} under {kind}{nearest(name, entries)}")
    if kind == "layouts":
        return [f"{name}  {entries[name]}"]
    path = shipped("configs") / f"{name}.yaml"
    wrapped = textwrap.wrap(_comment(name), _WIDTH)
    ways = f"distill run {name} | distill init my-run --from {name}"
    return [*wrapped, "", f"it lies in {path}", ways]


def _about_plugin(kind: str, name: str) -> list[str]:
    module = plugins.load(kind, name)
    schema: dict[str, Any] = module.Config.model_json_schema()
    about = (module.__doc__ or "").strip().split("\n")[0]
    key = {"teacher": "kind", "task source": "source", "trace source": "source"}.get(kind)
    lines = [f"{name}  {about}", "", "options" + ("" if key is None else f", beside {key}: {name}")]
    required = set(schema.get("required", ()))
    definitions = schema.get("$defs", {})
    for option, field in schema["properties"].items():
        default = f"default {_value(field['default'])}" if "default" in field else "default empty"
        default = "required" if option in required else default
        lines.append(f"  {option}: {_type(field, definitions)}; {default}")
        about = str(
            field.get("description") or _resolved(field, definitions).get("description", "")
        )
        indent = "      "
        lines += textwrap.wrap(
            " ".join(about.split()), _WIDTH, initial_indent=indent, subsequent_indent=indent
        )
    return lines


def _resolved(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    reference = field.get("$ref")
    return definitions[reference.rpartition("/")[2]] if reference else field


def _type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Returns what an option takes, in words: `whole number, 1 or more`, `off, tag or drop`."""
    if "$ref" in field:
        inner = _resolved(field, definitions)
        if "properties" in inner:
            return f"mapping of {', '.join(inner['properties'])}"
        return _type(inner, definitions)
    if "const" in field:
        return _value(field["const"])
    if "enum" in field:
        *first, last = map(_value, field["enum"])
        return f"{', '.join(first)} or {last}" if first else last
    if branches := field.get("anyOf", field.get("oneOf")):
        return " or ".join(dict.fromkeys(_type(branch, definitions) for branch in branches))
    if field.get("type") == "array" and field.get("items"):
        return f"list of {_type(field['items'], definitions)}"
    return _TYPES.get(str(field.get("type")), "any value") + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    words = {
        "minimum": "{} or more",
        "exclusiveMinimum": "above {}",
        "maximum": "{} or less",
        "exclusiveMaximum": "below {}",
    }
    bounds = [text.format(_value(field[key])) for key, text in words.items() if key in field]
    return f", {' and '.join(bounds)}" if bounds else ""


def _value(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _comment(config: str) -> str:
    """Returns the comment at the head of a shipped config, on one line."""
    lines = (shipped("configs") / f"{config}.yaml").read_text(encoding="utf-8").splitlines()
    head = []
    for line in lines:
        if not line.startswith("#"):
            break
        if "$schema=" not in line:
            head.append(line.lstrip("# "))
    return " ".join(head)


def _first_sentence(text: str) -> str:
    first = re.split(r"(?<!et al)\.\s+(?=[A-Z`])", text)[0].rstrip(".")
    return shown(first, _WIDTH)
