"""Whether a hub of models can be reached, and how to do without it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

_PROBE_S = 3.0


@functools.cache
def hub_answers() -> bool:
    """Says whether the hub can be reached; the client itself would try for minutes."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_PROBE_S)
    except Exception:  # of whichever HTTP library the client uses
        return False
    return True


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Lets the hub's client look into its cache alone while the block runs."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
