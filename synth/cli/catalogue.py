"""`distill list`: all that a config can name."""

from __future__ import annotations

from synth.config.yaml_file import config_names
from synth.core import plugins
from synth.core.errors import UserError, nearest
from synth.core.prompts import load_prompt, prompt_names
from synth.traces import LAYOUTS

_KINDS = {
    "filters": "filter",
    "teachers": "teacher",
    "sources": "task source",
    "traces": "trace source",
}


def catalogue(kind: str | None) -> str:
    """Returns all that a config can name, or one kind of it, as a text."""
    kinds = [*_KINDS, "layouts", "prompts", "configs"]
    if kind is not None and kind not in kinds:
        raise UserError(f"nothing to list under {kind!r}{nearest(kind, kinds)}")
    lines = []
    for title in [kind] if kind else kinds:
        entries = _entries(title)
        width = max(map(len, entries), default=0)
        lines += [title, *(f"  {name:<{width}}  {text}".rstrip() for name, text in entries.items())]
    return "\n".join(lines)


def _entries(kind: str) -> dict[str, str]:
    if plugin := _KINDS.get(kind):
        return {name: plugins.describe(plugin, name) for name in plugins.names(plugin)}
    if kind == "layouts":
        return {layout.name: layout.about for layout in LAYOUTS}
    if kind == "prompts":
        return {name: load_prompt(name).description for name in prompt_names()}
    return dict.fromkeys(config_names(), "")
