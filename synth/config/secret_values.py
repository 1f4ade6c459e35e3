"""Finds what looks like a key in a config, and keeps it out of messages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

_HIDDEN = "[hidden]"
# Names of settings whose value is not printed.
_SECRET_NAME = re.compile(r"api_?key|token$|secret|passw|authorization|credential", re.IGNORECASE)
# How the keys of many providers begin.
_KEY = re.compile(
    r"\b(?:(?:sk|pk|rk|hf|gsk|xai|ghp|gho|glpat|pplx|nvapi|key|github_pat)[-_]|AIza|AKIA|ASIA|eyJ)"
    r"[A-Za-z0-9_\-.]{12,}"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RANDOM_FROM = 20  # characters

NAME_EXPECTED = (
    "expected the NAME of an environment variable, such as OPENAI_API_KEY; what stands there looks "
    "like the key itself. Take it out of the file, and renew the key if others could read it"
)


def masked(text: str) -> str:
    """Returns a text without what begins like the keys of the known providers."""
    return _KEY.sub(_HIDDEN, text)


def shown(value: Any, name: object = "") -> str:
    """Returns a value as a message shows it, without what looks like a key.

    `name` is the key that it stands under. The values of `api_key_env` and the like are hidden.

    >>> shown({"model": "m", "api_key_env": "abc"})
    "{'model': 'm', 'api_key_env': '[hidden]'}"
    """
    return masked(repr(_without_secrets(value, name)))


def shown_override(argument: str) -> str:
    """Returns `dotted.key=value` as a message shows it."""
    key, equals, _ = argument.partition("=")
    secret = equals and _SECRET_NAME.search(key.rpartition(".")[2])
    return f"{key}={_HIDDEN}" if secret else masked(argument)


def key_like_names(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yields the path of each `api_key_env` that names no variable, but looks like a key."""
    if isinstance(data, dict):
        for name, value in data.items():
            if name == "api_key_env" and isinstance(value, str):
                if _is_no_name(value):
                    yield (*path, name)
            else:
                yield from key_like_names(value, (*path, name))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from key_like_names(value, (*path, index))


def _is_no_name(text: str) -> bool:
    """Tells whether a text is no name of a variable, or so random that it is hardly one."""
    if text in os.environ:
        return False
    if not _VARIABLE.fullmatch(text) or _KEY.search(text):
        return True
    parts = text.split("_")
    return any(
        len(part) >= _RANDOM_FROM and re.search(r"\d", part) and re.search(r"[A-Za-z]", part)
        for part in parts
    )


def _without_secrets(value: Any, name: object) -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item, name) for item in value]
    is_secret = isinstance(value, str) and _SECRET_NAME.search(str(name))
    return _HIDDEN if is_secret else value
