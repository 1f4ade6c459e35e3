"""A run from stage to stage: what is done and still holds is not done again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from synth.config.run import Run, stages_of
from synth.config.validate import machine_problems
from synth.core.dataset import MANIFEST
from synth.core.errors import UserError
from synth.core.files import write_json
from synth.core.processes import first_process, processes
from synth.core.progress import duration
from synth.core.run_folder import Folder, differences, only_one
from synth.stages import generate as stages
from synth.stages import tasks

Say = Callable[[str], None]
Work = Callable[[Run, Folder, dict[str, Any], Say], dict[str, Any]]


def _stage(name: str) -> tuple[Callable[[Run, Folder], dict[str, Any]], Work]:
    """What a stage depends on, and the stage itself."""
    if name == "evaluate":
        from synth.stages.evaluate import evaluate, evaluate_inputs

        return evaluate_inputs, evaluate
    if name == "augment":
        from synth.stages.augment import augment_inputs, augment_questions

        return augment_inputs, augment_questions
    if name == "rewrite":
        from synth.stages.rewrite import rewrite_inputs, rewrite_traces

        return rewrite_inputs, rewrite_traces
    if name == "filter":
        from synth.stages.filter import filter_inputs, filter_traces

        return filter_inputs, filter_traces
    if name == "import":
        from synth.stages.import_traces import import_inputs, import_traces

        return import_inputs, import_traces
    if name == "label":
        from synth.stages.label import label_inputs, label_traces

        return label_inputs, label_traces
    if name.partition("-")[0] == "train":
        from synth.stages.train import train_inputs, train_student

        step = name.partition("-")[2] or None
        return partial(train_inputs, name=step), partial(train_student, name=step)
    return {
        "tasks": (tasks.tasks_inputs, tasks.make_tasks),
        "generate": (stages.generate_inputs, stages.generate_traces),
    }[name]


def do_stage(name: str, run: Run, say: Say) -> bool:
    """Runs a stage unless its result is there and still holds.

    Args:
        name: One of `synth.config.run.stages_of`.
        run: The checked config.
        say: Prints a line for the user.

    Returns:
        Whether all of it was done; False where some requests failed for good.
    """
    refuse_unasked(name, run)
    if not first_process():  # of several processes that train together, one speaks and writes
        say = _silent
    inputs_of, work = _stage(name)
    folder = Folder(run.folder)
    inputs = inputs_of(run, folder)
    before = folder.manifest(name)
    if before is not None and before["inputs"] == inputs and before.get("complete", True):
        say(f"{name}: done before, nothing changed")
        return True
    if before is not None and before["inputs"] != inputs:
        changed = list(differences(before["inputs"], inputs))
        say(f"{name}: done again, because of\n" + "\n".join(f"  {line}" for line in changed[:12]))
    if processes() > 1 and name.partition("-")[0] not in ("label", "train"):
        raise UserError(
            f"{name}: several processes are for training alone; the same command without the "
            "launcher does this stage"
        )
    start = time.monotonic()
    with only_one(folder.path) if first_process() else contextlib.nullcontext():
        manifest = work(run, folder, inputs, say)
    if not first_process():
        return True
    seconds = time.monotonic() - start
    # Work of an earlier, interrupted try is in the store and the checkpoints, not in this figure.
    write_json(folder.stage(name) / MANIFEST, manifest | {"seconds": round(seconds, 3)})
    say(f"{name}: {duration(seconds)}")
    return bool(manifest.get("complete", True))


def _silent(text: str) -> None:
    """Says nothing."""


def refuse_unasked(name: str, run: Run) -> None:
    """Raises UserError where the config does not ask for a stage."""
    if name not in stages_of(run):
        section = {"filter": "generate or traces", "import": "traces"}.get(name, name)
        raise UserError(f"the config has no section {section}: there is nothing to {name}")


def refuse_if_lacking(run: Run, stage: str | None = None) -> None:
    """Raises UserError with all that this machine lacks for the run, or for one stage of it."""
    if lacks := machine_problems(run, [stage] if stage else stages_of(run)):
        raise UserError("\n".join(lacks))
