"""Checkpoints that are whole or do not count, and the log that goes with them.

A checkpoint counts once its marker is written, which happens after all its files are on the disk;
what a kill left half-written has none. Older checkpoints go only after a newer one counts.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from synth.core.files import atomic_write, read_json, sync_folder, write_json

MARKER = "whole.json"


@dataclass(slots=True)
class Meter:
    """What the training has gone through so far, resumed runs included."""

    step: int = 0  # optimizer steps done
    tokens: int = 0  # that went through the student, padding not counted
    loss_tokens: int = 0  # those of them that carried loss
    seconds: float = 0.0  # spent in steps, checkpoints not counted


def mark_whole(checkpoint: Path, meter: Meter) -> None:
    """Makes a checkpoint count, after forcing its files to the disk."""
    sync_folder(checkpoint)
    write_json(checkpoint / MARKER, asdict(meter))


def last_whole(folder: Path) -> tuple[Path, Meter] | None:
    """Returns the newest checkpoint that counts, and what had been done by then."""
    for checkpoint in reversed(_by_step(folder)):
        if marker := read_json(checkpoint / MARKER):
            return checkpoint, Meter(**marker)
    return None


def drop_halves(folder: Path) -> None:
    """Deletes checkpoints that do not count."""
    for checkpoint in _by_step(folder):
        if not (checkpoint / MARKER).exists():
            shutil.rmtree(checkpoint)


def keep_last(folder: Path, number: int) -> None:
    """Deletes all but the newest checkpoints."""
    checkpoints = _by_step(folder)
    for checkpoint in checkpoints[: max(0, len(checkpoints) - number)]:
        # Without its marker a half-deleted checkpoint does not count.
        (checkpoint / MARKER).unlink(missing_ok=True)
        shutil.rmtree(checkpoint)


def _by_step(folder: Path) -> list[Path]:
    numbered = {path.name.rpartition("-")[2]: path for path in folder.glob("checkpoint-*")}
    return [numbered[step] for step in sorted(filter(str.isdigit, numbered), key=int)]


@dataclass(frozen=True)
class StepLog:
    """A JSONL file with one line a logged step, each step at most once."""

    path: Path

    def rows(self) -> list[dict[str, Any]]:
        """Returns all whole lines."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:
                break  # a kill cut this line; nothing follows it
        return rows

    def cut_after(self, step: int) -> None:
        """Drops the lines of later steps, which a resumed run does again."""
        kept = [row for row in self.rows() if row["step"] <= step]
        with atomic_write(self.path, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)

    def append(self, row: dict[str, Any]) -> None:
        """Adds the line of one step."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
