"""Training a student on traces, from records to a folder with a finished model.

folder/tokens.arrow    the training data as tokens and labels, with tokens.json
folder/training.json   what the checkpoints were made from
folder/log.jsonl       one line a logged step
folder/checkpoints/    where a killed run goes on
folder/student/        the finished student
folder/adapter/        with LoRA: the adapter before it was merged
folder/result.json     written last
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sft.data.chat_template import select_template, set_chat_template
from sft.training.checkpoints import StepLog, keep_last
from sft.training.guards import disk_errors, memory_errors, quiet, require_packages
from synth.config.train import Student, Train
from synth.core.files import read_json, write_json
from synth.core.models import load_tokenizer, weights_identity
from synth.core.record import Message, Record, Task, digest


@dataclass(frozen=True)
class TrainResult:
    """What came of a training."""

    folder: Path
    student: str  # the finished student, relative to `folder`
    examples: int
    steps: int  # of the optimizer
    tokens: int  # that went through the student, padding not counted
    loss_tokens: int  # those of them that carried loss
    seconds: float  # spent in steps, all runs together
    tokens_per_second: float
    final_loss: float  # of the last line in log.jsonl


def train(
    records: Iterable[Record],
    render_prompt: Callable[[Task], list[Message]],
    student: Student,
    config: Train,
    folder: Path,
    seed: int,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    labels: Path | None = None,
    accuracies: dict[str, float] | None = None,
) -> TrainResult:
    """Trains a student, or goes on with a training that was stopped.

    What is done already (same weights, settings and data) is not done again: a stopped training
    goes on from its last whole checkpoint, a finished one returns its result.

    Args:
        records: The traces to learn; read once.
        render_prompt: What the student sees before it answers a task.
        student: The model to start from.
        config: How to train it.
        folder: Where everything goes.
        seed: Used unless `config.seed` is set.
        on_progress: Called with each line of the log, and `max_steps`.
        labels: Stored soft labels, a folder a teacher; None: the teachers come into memory.
        accuracies: Of each teacher, where soft labels are weighed by it.

    Raises:
        UserError: The data is empty or not sound (checked in full before training), the loss is
            no number any more, or memory does not suffice.
        Interrupted: Ctrl-C or a request to end; a checkpoint is saved.
        MissingPackage: trl is not installed, or another package that the config needs.
    """
    require_packages(config)
    seed = seed if config.seed is None else config.seed
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        # These import torch and trl at their top: after the check, and without their remarks.
        import torch
        from accelerate import PartialState

        from sft.training.build import build_trainer, load_data, run_trainer
        from sft.training.export import save_student
        from sft.training.monitor import TrainingMonitor, check_weights
        from sft.training.teachers import teachers_identity

        tokenizer = load_tokenizer(student.model, student.trust_remote_code)
        set_chat_template(tokenizer, select_template(tokenizer, student.chat_template))
        process = PartialState(cpu=not torch.cuda.is_available())
        data = load_data(tokenizer, records, render_prompt, student, config, folder)
        identity = _identity(student, config, seed, tokenizer.chat_template, data.content)
        if config.teachers:
            identity["teachers"] = teachers_identity(config, labels, accuracies)
        done = read_json(folder / "result.json")
        if done and _same(done["identity"], identity) and (folder / "student").is_dir():
            return TrainResult(**{**done["result"], "folder": folder})
        log = StepLog(folder / "log.jsonl")
        monitor = TrainingMonitor(
            log, on_progress, config.keep_checkpoints, process.is_main_process
        )
        with memory_errors(config, labels is not None), disk_errors(folder):
            trainer = build_trainer(
                tokenizer, data, student, config, folder, seed, monitor, labels, accuracies
            )
            if process.is_main_process and not _same(read_json(folder / "training.json"), identity):
                # No way leads on from checkpoints and log of a training with other data or
                # settings. They go here, once it is known that this one can be done.
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                log.path.unlink(missing_ok=True)
                write_json(folder / "training.json", identity)
            process.wait_for_everyone()
            run_trainer(trainer, folder / "checkpoints", monitor)
            meter = monitor.meter
            check_weights(trainer.model, meter.step)
            if process.is_main_process:
                (folder / "result.json").unlink(missing_ok=True)  # of a student that is replaced
            save_student(trainer, tokenizer, folder / "student", student)
        process.wait_for_everyone()  # the first one has written the log by then
        result = TrainResult(
            folder=folder,
            student="student",
            examples=len(data),
            steps=meter.step,
            tokens=meter.tokens,
            loss_tokens=meter.loss_tokens,
            seconds=meter.seconds,
            tokens_per_second=meter.tokens / meter.seconds if meter.seconds else 0.0,
            final_loss=log.rows()[-1]["loss"],
        )
        if process.is_main_process:
            write_json(
                folder / "result.json",
                {"identity": identity, "result": {**asdict(result), "folder": str(folder)}},
            )
            keep_last(folder / "checkpoints", config.keep_checkpoints)
        process.wait_for_everyone()
        return result


def _identity(
    student: Student, config: Train, seed: int, template: str, data: str
) -> dict[str, Any]:
    """Returns all that the trained weights depend on."""
    return {
        "weights": weights_identity(student.model),
        "student": student.model_dump(
            mode="json", include={"dtype", "layers", "rope", "attention"}
        ),
        "train": _settings(config),
        "seed": seed,
        "template": digest(template),
        "data": data,
    }


def _settings(config: Train) -> dict[str, Any]:
    """Returns the settings that the weights depend on; teachers are named by their weights."""
    settings = config.decisive()
    for teacher in settings["teachers"].values():
        del teacher["model"]
    return settings


def _same(noted: dict[str, Any] | None, identity: dict[str, Any]) -> bool:
    """Says whether the training that a folder holds is this one; any version may have noted it."""
    if noted is None:
        return False
    with contextlib.suppress(ValidationError):
        noted = {**noted, "train": _settings(Train.model_validate(noted["train"]))}
    return noted == identity
