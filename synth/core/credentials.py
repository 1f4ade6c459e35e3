"""Secrets from environment variables."""

from __future__ import annotations

import os

from synth.core.errors import UserError


def env_key(variable: str | None, needed_for: str) -> str | None:
    """The secret that an environment variable holds; the config has only the variable's name.

    Raises:
        UserError: The variable is not set.
    """
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise UserError(
            f"{needed_for} takes its key from the environment variable {variable}, which is not set"
        )
    return os.environ[variable]
