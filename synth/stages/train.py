"""The stage `train`: the student, and the models of the chain that are trained before it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from synth.config.run import ChainStep, Run, questions_of
from synth.core.dataset import MANIFEST, read_split
from synth.core.environment import first_process
from synth.core.files import write_json
from synth.core.models import weights_identity
from synth.core.progress import Clock, shown
from synth.core.record import digest
from synth.stages._train.teacher_weights import hold_out, measure_teacher_accuracy
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
        "train": section.train.model_dump(mode="json"),
        "seed": context.seed,
    }
    if step.train.teachers:
        inputs["teachers"] = {
            key: weights_identity(teacher.model) for key, teacher in step.train.teachers.items()
        }
    if _label_folder(context):
        inputs["labels"] = context.folder.content("label")
    return inputs


def train_student(
    section: ChainStep, context: StageContext, inputs: dict[str, Any]
) -> dict[str, Any]:
    """Fine-tunes the student; a run that was stopped goes on from its last checkpoint."""
    from sft.training.run import train

    folder, path = context.folder, context.path
    step = resolved_step(context.run, section)
    stage, split = training_data(context.run)
    if first_process():
        context.begin(inputs)  # checkpoints of other data or settings are not resumed from
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

    def run_training() -> Any:
        excluded = {task.id for task in held_out}
        return train(
            (r for r in read_split(folder.stage(stage), split) if r.task.id not in excluded),
            StudentSetup(step.student).messages,
            step.student,
            step.train,
            path,
            context.seed,
            latest.update,
            _label_folder(context),
            accuracy,
        )

    if not first_process():
        run_training()
        return {}
    with shown(line):
        result = run_training()
    fields = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(result).items()}
    manifest = {"inputs": inputs, "content": digest(inputs), **fields}
    if accuracy is not None:
        manifest["teacher_accuracy"] = accuracy
    write_json(path / MANIFEST, manifest)
    return manifest


def _label_folder(context: StageContext) -> Path | None:
    """Returns where the stored labels of a training lie; a step of the chain has none."""
    has_labels = context.stage == "train" and context.run.label is not None
    return context.folder.stage("label") if has_labels else None


def training_data(run: Run) -> tuple[str, str]:
    """Returns the stage and split that are learned: kept traces, or questions on-policy."""
    if run.generate is None and run.traces is None:
        return questions_of(run), "train"
    return "filter", "kept"
