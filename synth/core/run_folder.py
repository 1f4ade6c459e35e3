"""Reads a run's folder: which stages are done, and whether what they were made from still holds.

Each stage leaves a manifest with its `inputs` (everything its result depends on) and the `content`
hash of what it made. A stage whose inputs are unchanged is done; one whose inputs changed is done
again, and says what differs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth.core.dataset import MANIFEST
from synth.core.errors import UserError
from synth.core.files import find_replaced, read_json
from synth.core.record import digest

# Beside a stage's folder: what is in work or was stopped, and what another has taken the place of.
UNFINISHED, REPLACED = ".unfinished-", ".replaced-"


@dataclass(frozen=True)
class RunFolder:
    """The folder `RUNS/NAME` of one run."""

    path: Path

    def stage(self, name: str) -> Path:
        """Returns the folder of a stage's results."""
        folder = self.path / name
        if not folder.exists():
            find_replaced(folder)  # a kill may have come between its two moves
        return folder

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """Returns the manifest of a finished stage, or None."""
        manifest: dict[str, Any] | None = read_json(self.stage(stage) / MANIFEST)
        return manifest

    def need(self, stage: str) -> dict[str, Any]:
        """Returns the manifest of a stage that must be done; raises UserError where it is not."""
        manifest = self.manifest(stage)
        if manifest is None:
            raise UserError(
                f"{self.path}: the stage {stage!r} is not done; `distill {stage}` does it"
            )
        return manifest

    def content(self, stage: str) -> str:
        """Returns the hash of what a finished stage made; what follows depends on it."""
        return str(self.need(stage)["content"])


def replaced_folder(stage: Path) -> Path:
    """Returns where the finished result in a stage's folder goes when another takes its place."""
    manifest = read_json(stage / MANIFEST) or {}
    return stage.with_name(f"{stage.name}{REPLACED}{digest(manifest.get('inputs'))[:12]}")


@contextlib.contextmanager
def lock_run_folder(path: Path) -> Iterator[None]:
    """Keeps a second command off a run's folder, by a UserError, while one works there.

    The lock goes with its process, however it ends.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("a+") as file:
        try:
            # A record lock is not handed to forked workers, which may outlive their parent a while.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise UserError(
                f"{path}: another command works on this run (process {file.read() or '?'}); wait "
                "for it, or give this one another name="
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Says how two sets of inputs differ, a line each: `sampling.temperature: 0.7 -> 1.0`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}, key=str):
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(old.get(key), new.get(key), inner)
    elif old != new:
        yield f"{path}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:30]}... ({digest(value)[:8]})"
