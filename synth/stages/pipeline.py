"""The pipeline: the table of stages, and the runner that skips what is done and still holds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from synth.config.run import Run, stages_of
from synth.config.validate import machine_problems, machine_warnings
from synth.config.yaml_file import Source
from synth.core.dataset import MANIFEST
from synth.core.errors import UserError
from synth.core.files import finish_replacing, is_half_replaced, write_json
from synth.core.process.environment import first_process, processes
from synth.core.progress import duration
from synth.core.run_folder import lock_run_folder, replaced_folder
from synth.core.text.changes import changes
from synth.stages.build_student import written_step
from synth.stages.context import Say, StageContext

_CHANGES_SHOWN = 12  # of the inputs of a stage that is done again


@dataclass(frozen=True)
class Stage:
    """A stage of a run. Its module is imported when it runs, as it may load heavy libraries."""

    section: str  # of the config, which it is handed
    module: str
    inputs: str  # function that gives all that its result depends on: (section, context) -> dict
    run: str  # function that does the work: (section, context, inputs) -> dict, the manifest
    several_processes: bool = False  # whether several may do it together
    # Function that gives noted inputs in the form of those of now: (noted, inputs) -> dict.
    in_form: str | None = None

    def functions(self) -> tuple[Callable[..., dict[str, Any]], ...]:
        """Returns the functions `inputs`, `run` and `in_form`."""
        module = import_module(f"synth.stages.{self.module}")
        in_form = getattr(module, self.in_form) if self.in_form else _as_noted
        return getattr(module, self.inputs), getattr(module, self.run), in_form


def _as_noted(noted: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    return noted


STAGES = {
    "tasks": Stage("tasks", "tasks", "tasks_inputs", "make_tasks"),
    "import": Stage("traces", "import_traces", "import_inputs", "import_traces"),
    "augment": Stage("augment", "augment", "augment_inputs", "augment_questions"),
    "generate": Stage("generate", "generate", "generate_inputs", "generate_traces"),
    "rewrite": Stage("rewrite", "rewrite", "rewrite_inputs", "rewrite_traces"),
    "filter": Stage("filters", "filter", "filter_inputs", "filter_traces"),
    "label": Stage("label", "label", "label_inputs", "label_traces", several_processes=True),
    # Also `train-NAME`, a step of the chain.
    "train": Stage("train", "train", "train_inputs", "train_student", True, "inputs_in_form"),
    "evaluate": Stage("evaluate", "evaluate", "evaluate_inputs", "evaluate"),
}


def do_stage(name: str, run: Run, say: Say) -> bool:
    """Runs a stage unless its result is there and still holds.

    Returns whether all of it was done: False where some requests failed for good.

    Raises:
        UserError: The config has no such stage, or the stage cannot be done.
        Unfinished: A cap or an obstacle stopped it; a rerun goes on from there.
    """
    refuse_unasked(name, run)
    if not first_process():  # of several processes that train together, one speaks and writes
        say = _silent
    kind, _, step = name.partition("-")
    stage = STAGES[kind]
    inputs_of, work, in_form = stage.functions()
    context = StageContext(run, name, say)
    section = written_step(run, step) if kind == "train" else getattr(run, stage.section)
    inputs = inputs_of(section, context)
    if first_process() and is_half_replaced(context.path):  # by a kill
        with lock_run_folder(context.folder.path):
            kept = replaced_folder(context.path) if kind == "train" else None
            finish_replacing(context.path, kept)
    before = context.folder.manifest(name)
    if before is not None:
        before["inputs"] = in_form(before["inputs"], inputs)
    if before is not None and before["inputs"] == inputs and before.get("complete", True):
        say(f"{name}: done before, nothing changed")
        return True
    if before is not None and before["inputs"] != inputs:
        lines = changes(before["inputs"], inputs)
        shown = lines[:_CHANGES_SHOWN]
        if len(lines) > len(shown):
            shown.append(f"and {len(lines) - len(shown)} more")
        say(f"{name}: done again, because of\n" + "\n".join(f"  {line}" for line in shown))
    if processes() > 1 and not stage.several_processes:
        raise UserError(
            f"{name}: several processes are for training alone; the same command without the "
            "launcher does this stage"
        )
    for line in machine_warnings(run, [name]):
        say(f"  warning: {line}")
    start = time.monotonic()
    with lock_run_folder(context.folder.path) if first_process() else contextlib.nullcontext():
        manifest = work(section, context, inputs)
    if not first_process():
        return True
    seconds = time.monotonic() - start
    # Work of an earlier, interrupted try is in the store and the checkpoints, not in this figure.
    if not manifest.pop("taken_back", False):
        write_json(context.path / MANIFEST, manifest | {"seconds": round(seconds, 3)})
    say(f"{name}: {duration(seconds)}")
    return bool(manifest.get("complete", True))


def _silent(text: str) -> None:
    pass


def refuse_unasked(name: str, run: Run) -> None:
    """Raises UserError where the config does not ask for a stage."""
    if name not in stages_of(run):
        section = {"filter": "generate or traces", "import": "traces"}.get(name, name)
        raise UserError(f"the config has no section {section}: there is nothing to {name}")


def refuse_if_untrainable(run: Run, say: Say, source: Source | None = None) -> None:
    """Raises ConfigError with what the training would refuse, before anything is bought.

    `source` is the config as written, for the places. A training that is done is not looked at.
    """
    from synth.stages.check_training import check_training

    report = check_training(run)
    report.refuse(source)
    if first_process():
        for line in (*report.unchecked, *report.notes):
            say(line)


def refuse_if_lacking(run: Run, stage: str | None = None) -> None:
    """Raises UserError with all that this machine lacks for the run, or for one stage of it."""
    if lacks := machine_problems(run, [stage] if stage else stages_of(run)):
        raise UserError("\n".join(lacks))
