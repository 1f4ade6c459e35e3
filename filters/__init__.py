"""Filters: what decides whether a trace is kept. One file each, a pydantic `Config` and `build`."""

from filters.base import (
    KEEP,
    Check,
    Context,
    Decision,
    Figures,
    FilterConfig,
    SetCheck,
    cannot_tell,
)

__all__ = [
    "KEEP",
    "Check",
    "Context",
    "Decision",
    "Figures",
    "FilterConfig",
    "SetCheck",
    "cannot_tell",
]
