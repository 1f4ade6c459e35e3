"""The student's side: chat templates and masks, training, and the statistics of its evaluation.

`train` and `TrainResult` are those of `sft.training.run`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Loads the training when a name of it is first used."""
    if name not in ("train", "TrainResult"):
        raise AttributeError(f"module 'sft' has no attribute {name!r}")
    from synth.core.models import require_transformers

    require_transformers("training")
    return getattr(import_module("sft.training.run"), name)
