"""Secrets from environment variables."""

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
