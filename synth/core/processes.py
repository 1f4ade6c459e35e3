"""Says which processors and processes this process may count on."""

from __future__ import annotations

import os


def workers() -> int:
    """Counts the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def first_process() -> bool:
    """Tells whether this process writes: it is alone, or the first that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """Counts the processes that a launcher started for this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))
