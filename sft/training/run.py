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

import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft.data.chat_template import select_template, set_chat_template
from sft.data.dataset import Examples, open_examples, write_examples
from sft.data.sampler import BatchSampler
from sft.losses.hidden_states import HiddenStateLoss
from sft.losses.objective import DistillationLoss
from sft.models.student import length_limit, load_student, load_teacher, lora
from sft.training.checkpoints import StepLog, drop_halves, keep_last, last_whole
from sft.training.collator import BatchDataset, refuse_leaks
from sft.training.distributed import all_reduce_any, disable_zero3_init
from sft.training.export import save_student
from sft.training.guards import memory_errors, quiet, require_packages, stops_after_a_step
from sft.training.monitor import TrainingMonitor, refuse_broken
from sft.training.on_policy import build_on_policy
from sft.training.teachers import load_teachers, teachers_identity
from sft.training.trainer import build_trainer, end_trackers
from synth.config.distillation import HiddenStates
from synth.config.train import Student, Train
from synth.core.errors import Interrupted, UserError
from synth.core.files import read_json, write_json
from synth.core.models import load_tokenizer, weights_identity
from synth.core.record import Message, Record, Task, digest

# What a config may change without the training becoming another one.
_COSMETIC = {"logging_steps", "save_steps", "keep_checkpoints", "report_to"}


@dataclass(frozen=True)
class TrainResult:
    """What came of a training.

    Attributes:
        folder: Where everything lies.
        student: The finished student, relative to `folder`.
        examples: Training examples.
        steps: Optimizer steps.
        tokens: Tokens that went through the student, padding not counted.
        loss_tokens: Those of them that carried loss.
        seconds: Time spent in steps, all runs together.
        tokens_per_second: Of `tokens`.
        final_loss: Loss of the last line in log.jsonl.
    """

    folder: Path
    student: str
    examples: int
    steps: int
    tokens: int
    loss_tokens: int
    seconds: float
    tokens_per_second: float
    final_loss: float


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
        tokenizer = load_tokenizer(student.model, student.trust_remote_code)
        set_chat_template(tokenizer, select_template(tokenizer, student.chat_template))
        one = _one_process()
        data = _data(tokenizer, records, render_prompt, student, config, folder, one)
        identity = _identity(student, config, seed, tokenizer.chat_template, data.content)
        if config.teachers:
            identity["teachers"] = teachers_identity(config, labels, accuracies)
        done = read_json(folder / "result.json")
        if done and done["identity"] == identity and (folder / "student").is_dir():
            return TrainResult(**{**done["result"], "folder": folder})
        if one.is_main_process:
            _refuse_foreign(folder, identity)
        one.wait_for_everyone()
        checkpoints = folder / "checkpoints"
        watch = TrainingMonitor(
            StepLog(folder / "log.jsonl"),
            on_progress,
            config.keep_checkpoints,
            writes=one.is_main_process,
        )
        with memory_errors(config, labels is not None):
            trainer, hidden = _build(
                tokenizer, data, student, config, folder, seed, watch, labels, accuracies
            )
            _run(trainer, hidden, checkpoints, watch)
            meter = watch.meter
            refuse_broken(trainer.model, meter.step)
            save_student(trainer, tokenizer, folder / "student", student)
        one.wait_for_everyone()  # the first one has written the log by then
        result = TrainResult(
            folder=folder,
            student="student",
            examples=len(data),
            steps=meter.step,
            tokens=meter.tokens,
            loss_tokens=meter.loss_tokens,
            seconds=meter.seconds,
            tokens_per_second=meter.tokens / meter.seconds if meter.seconds else 0.0,
            final_loss=watch.log.rows()[-1]["loss"],
        )
        if one.is_main_process:
            write_json(
                folder / "result.json",
                {"identity": identity, "result": {**asdict(result), "folder": str(folder)}},
            )
            keep_last(checkpoints, config.keep_checkpoints)
        one.wait_for_everyone()
        return result


@dataclass(frozen=True)
class Prompts:
    """What a student answers that learns on its own answers.

    Attributes:
        prompts: Each question's messages, once.
        content: SHA-256 of all of them.
    """

    prompts: list[list[Message]]
    content: str

    def __len__(self) -> int:
        return len(self.prompts)


def _data(
    tokenizer: Any,
    records: Iterable[Record],
    render_prompt: Callable[[Task], list[Message]],
    student: Student,
    config: Train,
    folder: Path,
    one: Any,
) -> Examples | Prompts:
    """What the student is trained on: traces as tokens, or questions alone."""
    if config.method == "on_policy":
        tasks = {record.task.id: record.task for record in records}
        prompts = [render_prompt(task) for task in tasks.values()]
        return Prompts(prompts, digest(prompts))
    tokens = folder / "tokens.arrow"
    if one.is_main_process:
        write_examples(tokenizer, records, render_prompt, length_limit(student, config), tokens)
    one.wait_for_everyone()
    return open_examples(tokens)


def _build(
    tokenizer: Any,
    data: Examples | Prompts,
    student: Student,
    config: Train,
    folder: Path,
    seed: int,
    watch: TrainingMonitor,
    labels: Path | None,
    accuracies: dict[str, float] | None,
) -> tuple[Any, HiddenStateLoss | None]:
    """The trainer of a config, and the intermediate layers where it has them."""
    from accelerate import PartialState
    from datasets import Dataset

    disable_zero3_init()
    model = load_student(student, config.lora.quantization if config.lora else None)
    _refuse_unknown_tokens(model, tokenizer)
    if isinstance(data, Prompts):
        (teacher,) = config.teachers.values()
        trainer = build_on_policy(
            model,
            tokenizer,
            load_teacher(teacher),
            load_tokenizer(teacher.model, teacher.trust_remote_code),
            data.prompts,
            config,
            folder / "checkpoints",
            seed,
            watch,
        )
        return trainer, None
    if config.layout != "padded":
        refuse_leaks(model)
    teachers = load_teachers(config, tokenizer, data, labels, accuracies)
    if config.layout != "padded":
        for name, teacher_model in teachers.models.items():
            refuse_leaks(teacher_model, f"the teacher {name}")
    hidden = None
    if config.method == "hidden_states":
        how = config.hidden_states or HiddenStates()
        models = teachers.models
        hidden = HiddenStateLoss(how, model, models[how.teacher or next(iter(models))], seed)
    objective = None
    if not config.liger:
        objective = DistillationLoss(config, model, teachers.models, hidden, teachers.vocabulary)
    parts = config.gradient_accumulation * PartialState().num_processes
    groups = BatchDataset(
        data,
        BatchSampler(data, config, seed, parts),
        config.layout,
        tokenizer.pad_token_id,
        teachers.labels,
        config.soft_labels.temperature if config.soft_labels else 2.0,
        teachers.weights,
        teachers.per_writer,
    )
    trainer = build_trainer(
        model=model,
        tokenizer=tokenizer,
        dataset=Dataset.from_file(str(folder / "tokens.arrow")),
        groups=groups,
        config=config,
        folder=folder / "checkpoints",
        seed=seed,
        watch=watch,
        objective=objective,
        adapters=lora(config, model),
    )
    return trainer, hidden


def _run(
    trainer: Any, hidden: HiddenStateLoss | None, checkpoints: Path, watch: TrainingMonitor
) -> None:
    """Trains, from the last whole checkpoint on where there is one.

    Raises:
        Interrupted: It was asked to stop.
    """
    if watch.writes:
        drop_halves(checkpoints)
    found = last_whole(checkpoints)
    if found:
        watch.resumes(found[1])
        if hidden:
            hidden.load(found[0])
    if watch.writes:
        watch.log.cut_after(watch.meter.step)
    try:
        with stops_after_a_step(watch):
            trainer.train(resume_from_checkpoint=str(found[0]) if found else None)
    finally:
        end_trackers(trainer.args.report_to)
    if all_reduce_any(watch.asked):
        raise Interrupted(
            f"training stopped after step {watch.meter.step} of {trainer.state.max_steps}; a "
            "checkpoint is saved, the same command goes on from it"
        )


# --- before training ------------------------------------------------------------------------------


def _one_process() -> Any:
    """Which of several processes this is, as accelerate knows it."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def _identity(
    student: Student, config: Train, seed: int, template: str, data: str
) -> dict[str, Any]:
    """All that the trained weights depend on."""
    return {
        "weights": weights_identity(student.model),
        "student": student.model_dump(
            mode="json", include={"dtype", "layers", "rope", "attention"}
        ),
        "train": config.model_dump(mode="json", exclude=_COSMETIC),
        "seed": seed,
        "template": digest(template),
        "data": data,
    }


def _refuse_foreign(folder: Path, identity: dict[str, Any]) -> None:
    """Drops checkpoints and log of a training with other data or settings: no way leads on."""
    if read_json(folder / "training.json") != identity:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        for name in ("log.jsonl", "result.json"):
            (folder / name).unlink(missing_ok=True)
        write_json(folder / "training.json", identity)


def _refuse_unknown_tokens(model: Any, tokenizer: Any) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.eos_token_id >= rows:
        raise UserError(
            f"student.chat_template: the model has {rows} embeddings, and its tokenizer gives the "
            f"end token {tokenizer.eos_token} the id {tokenizer.eos_token_id}"
        )
