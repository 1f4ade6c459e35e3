"""Completes what is typed on the command line."""

from __future__ import annotations

import glob


def complete_config(incomplete: str) -> list[str]:
    """Completes the name of a config: a shipped one, or a file."""
    from synth.config.yaml_file import config_names

    files = [*glob.glob(f"{glob.escape(incomplete)}*.y*ml"), *glob.glob(f"{incomplete}*/")]
    return [*(n for n in config_names() if n.startswith(incomplete)), *files]
