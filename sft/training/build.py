"""The data, models and trainer of a training, made from its config."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from sft.data.context import LeftOut
from sft.data.dataset import Examples, open_examples, write_examples
from sft.data.sampler import BatchSampler
from sft.losses.hidden_states import HiddenStateLoss
from sft.losses.objective import DistillationLoss
from sft.models.student import length_limit, load_student, load_teacher, lora
from sft.models.vocabulary import check_rows
from sft.training.checkpoints import drop_halves, last_whole
from sft.training.collator import BatchDataset, check_isolation
from sft.training.distributed import all_reduce_any, disable_zero3_init
from sft.training.guards import stops_after_a_step
from sft.training.monitor import TrainingMonitor
from sft.training.on_policy import build_on_policy
from sft.training.teachers import load_teachers
from sft.training.trainer import StudentTrainer, end_trackers
from synth.config.distillation import HiddenStates, SoftLabels
from synth.config.train import Student, Train
from synth.core.errors import Interrupted
from synth.core.models import load_tokenizer
from synth.core.record import Message, Record, Task, digest


@dataclass(frozen=True)
class Prompts:
    """What a student answers that learns on its own answers: each question once. Has a SHA-256."""

    prompts: list[list[Message]]
    content: str

    def __len__(self) -> int:
        return len(self.prompts)


def load_data(
    tokenizer: Any,
    records: Iterable[Record],
    render_prompt: Callable[[Task], list[Message]],
    student: Student,
    config: Train,
    folder: Path,
) -> Examples | Prompts:
    """Returns what the student is trained on: traces as tokens, or questions alone."""
    if config.method == "on_policy":
        tasks, lost = {}, LeftOut(render_prompt)
        for record in records:
            tasks[record.task.id] = record.task
            lost.add(record)
        if not config.drop_context:
            lost.refuse()
        prompts = [render_prompt(task) for task in tasks.values()]
        return Prompts(prompts, digest(prompts))
    tokens, process = folder / "tokens.arrow", PartialState()
    if process.is_main_process:
        limit, drop = length_limit(student, config), config.drop_context
        write_examples(tokenizer, records, render_prompt, limit, tokens, drop)
    process.wait_for_everyone()
    return open_examples(tokens)


def build_trainer(
    tokenizer: Any,
    data: Examples | Prompts,
    student: Student,
    config: Train,
    folder: Path,
    seed: int,
    monitor: TrainingMonitor,
    labels: Path | None,
    accuracies: dict[str, float] | None,
) -> Any:
    """Loads the models of a config and builds its trainer."""
    disable_zero3_init()
    model = load_student(student, config.lora.quantization if config.lora else None)
    largest = [data.largest_id] if isinstance(data, Examples) else []
    check_rows(tokenizer, model.get_input_embeddings().weight.shape[0], largest)
    if isinstance(data, Prompts):
        (entry,) = config.teachers.values()
        teacher = load_teacher(entry)
        teacher_tokenizer = load_tokenizer(entry.model, entry.trust_remote_code)
        return build_on_policy(
            model,
            tokenizer,
            teacher,
            teacher_tokenizer,
            data.prompts,
            config,
            folder,
            seed,
            monitor,
        )
    if config.layout != "padded":
        check_isolation(model)
    teachers = load_teachers(config, tokenizer, data, labels, accuracies)
    if config.layout != "padded":
        for name, teacher in teachers.models.items():
            check_isolation(teacher, f"the teacher {name}")
    hidden = None
    if config.method == "hidden_states":
        options = config.hidden_states or HiddenStates()
        teacher = teachers.models[options.teacher or next(iter(teachers.models))]
        hidden = HiddenStateLoss(options, model, teacher, seed)
    objective = None
    if not config.liger:
        objective = DistillationLoss(config, model, teachers.models, hidden, teachers.vocabulary)
    parts = config.gradient_accumulation * PartialState().num_processes
    order = BatchSampler(data, config, seed, parts)
    temperature = (config.soft_labels or SoftLabels()).temperature
    return StudentTrainer(
        config,
        folder,
        seed,
        BatchDataset(data, order, config.layout, tokenizer.pad_token_id, teachers, temperature),
        monitor,
        objective,
        model=model,
        train_dataset=Dataset.from_file(str(folder / "tokens.arrow")),  # TRL wants to see one
        processing_class=tokenizer,
        peft_config=lora(config, model),
    )


def run_trainer(trainer: Any, checkpoints: Path, monitor: TrainingMonitor) -> None:
    """Trains, from the last whole checkpoint on where there is one.

    Raises:
        Interrupted: It was asked to stop.
    """
    if monitor.writes:
        drop_halves(checkpoints)
    checkpoint, meter = last_whole(checkpoints) or (None, None)
    if checkpoint and meter:
        monitor.resumes(meter)
        if monitor.hidden:
            monitor.hidden.load(checkpoint)
    if monitor.writes:
        monitor.log.cut_after(monitor.meter.step)
    try:
        with stops_after_a_step(monitor):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        end_trackers(trainer.args.report_to)
    if all_reduce_any(monitor.stop_requested):
        raise Interrupted(
            f"training stopped after step {monitor.meter.step} of {trainer.state.max_steps}; a "
            "checkpoint is saved, the same command goes on from it"
        )
