"""Turn a big model's reasoning into a better small model, from one config file.

Example:
    >>> from synth import load_run, run
    >>> result = run(load_run("dry-run"))
    >>> result.kept[0]["answer"]
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_API = ("RunResult", "load_run", "run", "run_stage")  # of `synth.api`


def __getattr__(name: str) -> Any:
    """Loads the Python interface when a name of it is first used."""
    if name not in _API:
        raise AttributeError(f"module 'synth' has no attribute {name!r}")
    return getattr(import_module("synth.api"), name)
