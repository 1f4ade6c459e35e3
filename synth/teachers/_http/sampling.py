"""Sampling parameters that an API does not have: found before anything is bought, never dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synth.core.errors import UserError

NO_SOFT_LABELS = "no soft labels come from this kind of teacher; kind: openai and vllm give them"
_CONTINUE = "continue_final_message"


def refused_parameters(sampling: Mapping[str, Any], refused: Mapping[str, str]) -> dict[str, str]:
    """Return why each parameter of a sampling cannot be sent, for those in the table `refused`."""
    return {name: refused[name] for name in sampling if name in refused}


def raise_if_refused(kind: str, problems: Mapping[str, str]) -> None:
    """Raise UserError for the first parameter that cannot be sent."""
    for name, why in problems.items():
        if name == _CONTINUE:
            raise UserError(f"kind: {kind} cannot continue an answer that was cut off: {why}")
        raise UserError(f"kind: {kind} has no sampling parameter {name}: {why}")
