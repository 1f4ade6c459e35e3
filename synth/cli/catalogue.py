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
    """All that a config can name, or one kind of it."""
    known = [*_KINDS, "layouts", "prompts", "configs"]
    if kind is not None and kind not in known:
        raise UserError(f"nothing to list under {kind!r}{nearest(kind, known)}")
    lines = []
    for one in [kind] if kind else known:
        if one in _KINDS:
            entries = {n: plugins.describe(_KINDS[one], n) for n in plugins.names(_KINDS[one])}
        elif one == "layouts":
            entries = {layout.name: layout.about for layout in LAYOUTS}
        elif one == "prompts":
            entries = {n: load_prompt(n).description for n in prompt_names()}
        else:
            entries = dict.fromkeys(config_names(), "")
        width = max(map(len, entries), default=0)
        lines += [one, *(f"  {name:<{width}}  {text}".rstrip() for name, text in entries.items())]
    return "\n".join(lines)
