"""What can go wrong, decided once: the user's mistake (status 2), an unfinished run (3), or a bug.

Everything raised on purpose is one of these; whatever else reaches the command line is a bug
(status 1) and shows its traceback.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from synth.core.installation import install_command

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USER = 2
EXIT_PARTIAL = 3
EXIT_INTERRUPTED = 130


class DistillError(Exception):
    """Base of all errors that a user is meant to read. Carries its exit status."""

    exit_status = EXIT_USER

    def prefixed(self, prefix: str) -> Self:
        """Returns the same error with a text before its message."""
        return _restored(type(self), f"{prefix}{self}", vars(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the message, not what it was made of: it comes from other processes, too."""
        return _restored, (type(self), str(self), vars(self))


E = TypeVar("E", bound=DistillError)


def _restored(kind: type[E], message: str, state: dict[str, Any]) -> E:
    error = kind.__new__(kind)
    error.args = (message,)
    error.__dict__.update(state)
    return error


class UserError(DistillError):
    """A mistake in a config, an input file or the environment; the message says where and what."""


class MissingPackage(UserError):
    """A package that this config needs is not installed.

    `extra` is the extra that brings it. With `alone` it is installed without what it requires.
    """

    def __init__(
        self, package: str, needed_for: str, extra: str | None = None, alone: bool = False
    ) -> None:
        command = install_command(package, extra or "", alone)
        super().__init__(f"{needed_for} needs the package {package}: {command}")


def missing_package(
    package: str, needed_for: str, extra: str | None = None
) -> list[MissingPackage]:
    """Returns the error of a package that is not installed, and nothing where it is.

    Its module has the same name with `_` for `-`; `extra` of synth-distill brings it.
    """
    installed = importlib.util.find_spec(package.replace("-", "_")) is not None
    return [] if installed else [MissingPackage(package, needed_for, extra)]


def lacks_package(package: str, needed_for: str, extra: str | None = None) -> list[str]:
    """Says how to install a package that is missing, as a plug-in's `check` does."""
    return list(map(str, missing_package(package, needed_for, extra)))


class Unfinished(DistillError):
    """The run stopped before its end with everything so far saved; a rerun goes on."""

    exit_status = EXIT_PARTIAL


class Interrupted(DistillError):
    """The user pressed Ctrl-C; everything that was answered is saved."""

    exit_status = EXIT_INTERRUPTED


@dataclass(frozen=True)
class Problem:
    """One mistake in a config: where it is and what was expected."""

    place: str  # `FILE:LINE`, or the file alone where no line is known
    key: str  # dotted path in the config, such as `train.learning_rate`
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.key, self.message) if part)


class ConfigError(UserError):
    """All the mistakes of a config at once."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` where a name is near, else `; known: a, b, c`, else nothing."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
