"""The stage `train`: the student, and the models of the chain that are trained before it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synth.config.run import Run, questions_of
from synth.core.dataset import MANIFEST, read_split
from synth.core.files import read_json, write_json
from synth.core.processes import first_process
from synth.core.progress import Clock, shown
from synth.core.prompts import load_prompt
from synth.core.record import digest
from synth.core.run_folder import Folder
from synth.stages._train.teacher_weights import (
    accuracies,
    by_accuracy,
    held_out,
    manifest_of,
    without,
)
from synth.stages.build_student import prompt_of, stage_name, step_of

Say = Callable[[str], None]


def train_inputs(run: Run, folder: Folder, name: str | None = None) -> dict[str, Any]:
    """Kept traces, student, its prompt, and the settings of the training."""
    from synth.core.models import weights_identity

    step = step_of(run, name)
    named = run if name is None else run.chain[name]  # `trained:` as the config writes it
    assert named.student is not None
    assert named.train is not None
    stage, _ = learned_from(run)
    inputs = {
        stage: folder.content(stage),
        "student": named.student.model_dump(mode="json"),
        "weights": weights_identity(step.student.model),
        "prompt": load_prompt(step.student.prompt.template).hash,
        "train": named.train.model_dump(mode="json"),
        "seed": run.seed,
    }
    if step.train.teachers:
        inputs["teachers"] = {
            key: weights_identity(teacher.model) for key, teacher in step.train.teachers.items()
        }
    if name is None and run.label is not None:
        inputs["labels"] = folder.content("label")
    return inputs


def train_student(
    run: Run, folder: Folder, inputs: dict[str, Any], say: Say, name: str | None = None
) -> dict[str, Any]:
    """Fine-tunes the student; a run that was stopped goes on from its last checkpoint."""
    from dataclasses import asdict

    from sft.training.run import train

    step = step_of(run, name)
    stage, split = learned_from(run)
    place = folder.stage(stage_name(name))
    if first_process():
        if read_json(place / "inputs.json") != inputs:
            # Checkpoints of other data or settings are not ours to resume from.
            shutil.rmtree(place, ignore_errors=True)
            write_json(place / "inputs.json", inputs)
        (place / MANIFEST).unlink(missing_ok=True)
    apart, weights = [], None
    if by_accuracy(step):
        soft = step.train.soft_labels
        assert soft is not None
        apart = held_out(read_split(folder.stage(stage), split), soft.held_out, run.seed)
        weights = accuracies(run, folder, step, apart, say, first_process())
    latest: dict[str, Any] = {}
    clock = Clock()
    what = "train" if name is None else f"train {name}"

    def line() -> str:
        if not latest:
            return f"{what}: loading the models, checking the mask"
        done, steps = latest["step"], latest["max_steps"]
        return (
            f"{what}: step {done}/{steps} · loss {latest['loss']:.3f} · "
            f"{latest['tokens_per_second']:.0f} tokens/s{clock.eta(done, steps)}"
        )

    def go() -> Any:
        return train(
            without(read_split(folder.stage(stage), split), apart),
            prompt_of(step.student),
            step.student,
            step.train,
            place,
            run.seed,
            latest.update,
            folder.stage("label") if name is None and run.label is not None else None,
            weights,
        )

    if not first_process():
        go()
        return {}
    with shown(line):
        result = go()
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(result).items()}
    manifest = {"inputs": inputs, "content": digest(inputs), **plain, **manifest_of(weights)}
    write_json(place / MANIFEST, manifest)
    return manifest


def learned_from(run: Run) -> tuple[str, str]:
    """The stage and split that a training reads: kept traces, or questions where none are made."""
    if run.generate is None and run.traces is None:
        return questions_of(run), "train"
    return "filter", "kept"
