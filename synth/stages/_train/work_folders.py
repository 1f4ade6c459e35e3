"""The folders of a stage whose work takes hours: finished, in work, stopped, and replaced.

RUN/STAGE                    the finished result; it stays until the next one is whole
RUN/STAGE.unfinished-HASH    one in work, or stopped: the same config goes on from there
RUN/STAGE.replaced-HASH      a finished one whose place another has taken
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from synth.core.dataset import MANIFEST
from synth.core.files import read_json, replace_folder, sync_folder, write_json
from synth.core.record import digest
from synth.core.run_folder import REPLACED, UNFINISHED, replaced_folder
from synth.core.text.display import disk_size

Inputs = dict[str, Any]
_INPUTS = "inputs.json"
# What a stopped stage can go on from, give back or show: checkpoints, a student, labels, a batch.
_WORK = ("checkpoints/checkpoint-*/whole.json", "student", "*/labels-*", "broken-batch.json")


def _as_noted(noted: Inputs, inputs: Inputs) -> Inputs:
    return noted


@dataclass(frozen=True)
class WorkFolders:
    """The folders of one stage, for the inputs that it is to be done with now."""

    place: Path  # of the finished result
    inputs: Inputs
    # Gives noted inputs, perhaps of an earlier version, in the form of those of now.
    in_form: Callable[[Inputs, Inputs], Inputs] = _as_noted

    @property
    def unfinished(self) -> Path:
        """Where these inputs are worked on."""
        for folder in self._beside(UNFINISHED):
            if self._same(read_json(folder / _INPUTS)):
                return folder
        return self._named(UNFINISHED, self.inputs)

    def whole(self) -> Path | None:
        """Returns the finished result of these inputs that lies beside the place, if there is one.

        A process may move it to its place at this moment, but no further.
        """
        beside = (self.unfinished, *self._beside(REPLACED), self._beside_new())
        return next((folder for folder in beside if self.holds(folder)), None)

    def holds(self, folder: Path) -> bool:
        """Says whether a folder has the finished result of these inputs."""
        manifest = read_json(folder / MANIFEST)
        return manifest is not None and self._same(manifest["inputs"])

    def begin(self) -> Path:
        """Makes the folder to work in, or returns that of a stage that was stopped."""
        if self.place.exists() and not (self.place / MANIFEST).exists():
            self._move_aside()
        folder = self.unfinished
        write_json(folder / _INPUTS, self.inputs)
        return folder

    def drop_without_work(self) -> None:
        """Deletes the folders of stopped stages that came to nothing."""
        for folder in self._beside(UNFINISHED):
            if not any(chain.from_iterable(map(folder.glob, _WORK))):
                shutil.rmtree(folder, ignore_errors=True)

    def stopped(self) -> list[Path]:
        """Returns the folders of stopped work with other inputs, the newest first."""
        mine = self.unfinished
        return [folder for folder in self._beside(UNFINISHED) if folder != mine]

    def put_in_place(self, folder: Path, keep: int) -> Iterator[str]:
        """Puts a whole result in its place; says what it does with those that are there.

        The one that it replaces and the newest others stay, `keep` of them, and as many stopped
        ones.
        """
        sync_folder(folder)
        before = read_json(self.place / MANIFEST)
        old = replaced_folder(self.place) if before is not None else None
        replace_folder(folder, self.place, old)
        if old is not None:
            os.utime(old)  # the newest of those that were replaced
        for index, folder in enumerate(self._beside(REPLACED)):
            if index >= keep:
                yield f"removed {_sized(folder)}, which was replaced"
                shutil.rmtree(folder, ignore_errors=True)
            elif folder == old:
                yield f"the one before is kept: {_sized(folder)}"
        for folder in self.stopped()[keep:]:
            yield f"removed {_sized(folder)}, which was stopped"
            shutil.rmtree(folder, ignore_errors=True)

    def _move_aside(self) -> None:
        """Takes what an earlier version was stopped in, the place itself, for unfinished work."""
        noted = read_json(self.place / _INPUTS) or {}
        target = self._named(UNFINISHED, self.inputs if self._same(noted) else noted)
        shutil.rmtree(target, ignore_errors=True)
        self.place.rename(target)

    def _same(self, noted: Inputs | None) -> bool:
        return noted is not None and self.in_form(noted, self.inputs) == self.inputs

    def _beside(self, kind: str) -> list[Path]:
        """Lists the folders of a kind, the newest first."""
        folders = {}
        for folder in self.place.parent.glob(f"{self.place.name}{kind}*"):
            with contextlib.suppress(FileNotFoundError):  # of several processes one moves them
                folders[folder] = folder.stat().st_mtime
        return sorted(folders, key=folders.__getitem__, reverse=True)

    def _beside_new(self) -> Path:
        return self.place.with_name(self.place.name + ".new")

    def _named(self, kind: str, inputs: Inputs) -> Path:
        return self.place.with_name(f"{self.place.name}{kind}{digest(inputs)[:12]}")


def _sized(folder: Path) -> str:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"{folder} ({disk_size(size)})"
