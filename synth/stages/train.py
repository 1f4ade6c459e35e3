"""The stage `train`: the student, and the models of the chain that are trained before it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from synth.config.run import ChainStep, Run, RunStudent, questions_of
from synth.config.train import Train
from synth.core.dataset import MANIFEST, read_split
from synth.core.files import write_json
from synth.core.models import weights_identity
from synth.core.process.environment import first_process
from synth.core.progress import Clock, shown
from synth.core.record import digest
from synth.stages._train.teacher_weights import hold_out, measure_teacher_accuracy
from synth.stages._train.work_folders import WorkFolders
from synth.stages.build_student import StudentSetup, resolved_step
from synth.stages.context import StageContext


def train_inputs(section: ChainStep, context: StageContext) -> dict[str, Any]:
    """Returns kept traces, student, its prompt, and the settings of the training."""
    run, step = context.run, resolved_step(context.run, section)
    stage, _ = training_data(run)
    inputs = {
        stage: context.folder.content(stage),
        "student": section.student.model_dump(mode="json"),  # `trained:` as the config writes it
        "weights": weights_identity(step.student.model),
        "prompt": StudentSetup(step.student).prompt.hash,
        "train": section.train.decisive(),
        "seed": context.seed,
    }
    if step.train.teachers:
        inputs["teachers"] = {
            key: weights_identity(teacher.model) for key, teacher in step.train.teachers.items()
        }
    if _label_folder(context):
        inputs["labels"] = context.folder.content("label")
    if Path(section.student.chat_template).is_file():
        inputs["template"] = digest(Path(section.student.chat_template).read_text("utf-8"))
    return inputs


def inputs_in_form(noted: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Returns the inputs of a training, of this version's or an earlier one's, as `train_inputs`.

    What did not exist then has its default, and what is not among the inputs any more goes. Models
    are named by their weights; where these lie is of no account.
    """
    noted = {**noted, **{key: inputs[key] for key in {"template"} & {*inputs} - {*noted}}}
    with contextlib.suppress(ValidationError, KeyError):
        noted["train"] = Train.model_validate(noted["train"]).decisive()
        noted["student"] = RunStudent.model_validate(noted["student"]).model_dump(mode="json")
        if noted["weights"] == inputs["weights"]:
            noted["student"]["model"] = inputs["student"]["model"]
        for name, teacher in noted["train"]["teachers"].items():
            if noted["teachers"][name] == inputs["teachers"][name]:
                teacher["model"] = inputs["train"]["teachers"][name]["model"]
    return noted


def train_student(
    section: ChainStep, context: StageContext, inputs: dict[str, Any]
) -> dict[str, Any]:
    """Fine-tunes the student; a run that was stopped goes on from its last checkpoint."""
    from sft.training.run import train

    folder = context.folder
    step = resolved_step(context.run, section)
    stage, split = training_data(context.run)
    folders = WorkFolders(context.path, inputs, inputs_in_form)
    whole = folders.whole()
    if first_process() and whole is not None:
        return _taken_back(folders, whole, section.train.keep_replaced, context)
    if not first_process() and (whole is not None or folders.holds(context.path)):
        return _waited_for(folders)
    path = _begun(folders, context) if first_process() else folders.unfinished
    held_out, accuracy = [], None
    if (soft := step.train.soft_labels) is not None and soft.weights == "accuracy":
        held_out = hold_out(read_split(folder.stage(stage), split), soft.held_out, context.seed)
        accuracy = measure_teacher_accuracy(context, step, held_out)
    latest: dict[str, Any] = {}
    clock, title = Clock(), context.stage.replace("-", " ", 1)

    def line() -> str:
        if not latest:
            return f"{title}: loading the models, checking the mask"
        done, steps = latest["step"], latest["max_steps"]
        return (
            f"{title}: step {done}/{steps} · loss {latest['loss']:.3f} · "
            f"{latest['tokens_per_second']:.0f} tokens/s{clock.eta(done, steps)}"
        )

    def progress(row: dict[str, Any]) -> None:
        if not latest:  # loading, and the steps of an earlier run, say nothing of the pace
            clock.restart(row["step"])
        latest.update(row)

    def run_training() -> Any:
        excluded = {task.id for task in held_out}
        return train(
            (r for r in read_split(folder.stage(stage), split) if r.task.id not in excluded),
            StudentSetup(step.student).messages,
            step.student,
            step.train,
            path,
            context.seed,
            progress,
            _label_folder(context),
            accuracy,
        )

    if not first_process():
        run_training()
        return _waited_for(folders)
    try:
        with shown(line):
            result = run_training()
    finally:
        folders.drop_without_work()
    manifest = {"inputs": inputs, "content": digest(inputs), **asdict(result)}
    manifest["folder"] = str(context.path)
    if accuracy is not None:
        manifest["teacher_accuracy"] = accuracy
    write_json(path / MANIFEST, manifest)
    for text in folders.put_in_place(path, section.train.keep_replaced):
        context.say(f"  {text}")
    return manifest


def _begun(folders: WorkFolders, context: StageContext) -> Path:
    """Returns the folder to train in; says what stays beside it until the student is whole."""
    path = folders.begin()
    if (folders.place / MANIFEST).exists():
        context.say(f"  the student before stays in {folders.place} until the new one is whole")
    for stopped in folders.stopped():
        context.say(f"  a stopped training with other settings stays: {stopped}")
    return path


def _taken_back(
    folders: WorkFolders, whole: Path, keep: int, context: StageContext
) -> dict[str, Any]:
    """Puts a student that was trained before with these inputs in its place."""
    context.say(f"  trained before with these settings: taken from {whole}")
    for text in folders.put_in_place(whole, keep):
        context.say(f"  {text}")
    return {**context.folder.need(context.stage), "taken_back": True}


def _waited_for(folders: WorkFolders) -> dict[str, Any]:
    """Waits until the first process has put the student in its place: the next stage reads it."""
    while not folders.holds(folders.place):
        time.sleep(0.1)
    return {}


def _label_folder(context: StageContext) -> Path | None:
    """Returns where the stored labels of a training lie; a step of the chain has none."""
    has_labels = context.stage == "train" and context.run.label is not None
    return context.folder.stage("label") if has_labels else None


def training_data(run: Run) -> tuple[str, str]:
    """Returns the stage and split that are learned: kept traces, or questions on-policy."""
    if run.generate is None and run.traces is None:
        return questions_of(run), "train"
    return "filter", "kept"
