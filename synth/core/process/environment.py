"""What the environment gives: secrets, processors, the processes of a launcher."""

from __future__ import annotations

import os

from synth.core.errors import UserError


def env_key(variable: str | None, needed_for: str) -> str | None:
    """Returns the secret in an environment variable. Raises UserError where it is not set."""
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise UserError(
            f"{needed_for} takes its key from the environment variable {variable}, which is not set"
        )
    return key


def workers() -> int:
    """Counts the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def first_process() -> bool:
    """Tells whether this process writes: it is alone, or the first that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """Counts the processes that a launcher started for this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))
