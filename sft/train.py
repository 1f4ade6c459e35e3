"""Training a student on traces, from records to a folder with a finished model.

folder/tokens.arrow    the training data as tokens and labels
folder/training.json   what the checkpoints were made from
folder/log.jsonl       one line a logged step
folder/checkpoints/    where a killed run goes on
folder/student/        the finished student
folder/adapter/        with LoRA: the adapter before it was merged
folder/result.json     written last
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft.chat import apply, choose
from sft.checkpoints import StepLog, drop_halves, keep_last, last_whole
from sft.export import save_student
from sft.masks import Encoded, check_dataset
from sft.trainer import Watch, build_trainer, refuse_broken
from synth.errors import Interrupted, MissingPackage, UserError
from synth.io import read_json, write_json
from synth.models import load_model, load_tokenizer, locate, require_transformers, weights_identity
from synth.record import Message, Record, Task, digest
from synth.training_config import Student, Train

# What a config may change without the training becoming another one.
_COSMETIC = {"logging_steps", "save_steps", "keep_checkpoints"}
_ROWS_PER_BATCH = 1_000


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

    Raises:
        UserError: The data is empty or not sound (checked in full before training), the loss is
            no number any more, or memory does not suffice.
        Interrupted: Ctrl-C or a request to end; a checkpoint is saved.
        MissingPackage: trl is not installed, or another package that the config needs.
    """
    _require_packages(config)
    seed = seed if config.seed is None else config.seed
    folder.mkdir(parents=True, exist_ok=True)
    with _quiet():
        tokenizer = load_tokenizer(student.model, student.trust_remote_code)
        apply(tokenizer, choose(tokenizer, student.chat_template))
        limit = _limit(student, config)
        lengths, data = _write_tokens(
            check_dataset(tokenizer, records, render_prompt, limit), folder / "tokens.arrow"
        )
        identity = _identity(student, config, seed, tokenizer.chat_template, data)
        done = read_json(folder / "result.json")
        if done and done["identity"] == identity and (folder / "student").is_dir():
            return TrainResult(**{**done["result"], "folder": folder})
        _refuse_foreign(folder, identity)
        with _memory_errors():
            return _train(tokenizer, lengths, student, config, folder, seed, identity, on_progress)


def _train(
    tokenizer: Any,
    lengths: list[int],
    student: Student,
    config: Train,
    folder: Path,
    seed: int,
    identity: dict[str, Any],
    on_progress: Callable[[dict[str, Any]], None] | None,
) -> TrainResult:
    """Trains on the tokens that lie in the folder."""
    from datasets import Dataset

    model = load_model(student.model, student.dtype, None, student.trust_remote_code)
    _refuse_unknown_tokens(model, tokenizer)
    checkpoints = folder / "checkpoints"
    watch = Watch(StepLog(folder / "log.jsonl"), on_progress, config.keep_checkpoints)
    trainer = build_trainer(
        model=model,
        tokenizer=tokenizer,
        dataset=Dataset.from_file(str(folder / "tokens.arrow")),
        lengths=lengths,
        config=config,
        folder=checkpoints,
        seed=seed,
        watch=watch,
    )
    drop_halves(checkpoints)
    found = last_whole(checkpoints)
    if found:
        watch.resumes(found[1])
    watch.log.cut_after(watch.meter.step)
    with _stops_after_a_step(watch):
        trainer.train(resume_from_checkpoint=str(found[0]) if found else None)
    meter = watch.meter
    if watch.stop:
        raise Interrupted(
            f"training stopped after step {meter.step} of {trainer.state.max_steps}; a checkpoint "
            "is saved, the same command goes on from it"
        )
    refuse_broken(trainer.model, meter.step)
    save_student(trainer.model, tokenizer, folder / "student")
    result = TrainResult(
        folder=folder,
        student="student",
        examples=len(lengths),
        steps=meter.step,
        tokens=meter.tokens,
        loss_tokens=meter.loss_tokens,
        seconds=meter.seconds,
        tokens_per_second=meter.tokens / meter.seconds if meter.seconds else 0.0,
        final_loss=watch.log.rows()[-1]["loss"],
    )
    write_json(
        folder / "result.json",
        {"identity": identity, "result": {**asdict(result), "folder": str(folder)}},
    )
    keep_last(checkpoints, config.keep_checkpoints)
    return result


# --- before training ------------------------------------------------------------------------------


def _require_packages(config: Train) -> None:
    """Refuses early what would fail late: a missing package, or several GPUs in one process."""
    import importlib.util

    require_transformers("training")
    for package in ["trl", "accelerate", *(["peft"] if config.lora else [])]:
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package, "training", extra="train")
    import torch

    if torch.cuda.device_count() > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "training uses one GPU, and several are visible; make one visible with "
            "CUDA_VISIBLE_DEVICES=0"
        )


def _limit(student: Student, config: Train) -> int | None:
    """Most tokens an example may have: train.max_length, and never more than the model's window."""
    from transformers import AutoConfig

    place, gguf = locate(student.model)
    try:
        loaded = AutoConfig.from_pretrained(
            place, gguf_file=gguf, trust_remote_code=student.trust_remote_code
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise UserError(f"cannot load the model {student.model!r}: {first}") from error
    window = getattr(loaded.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (config.max_length, window) if limit]
    return min(limits) if limits else None


def _write_tokens(examples: Iterable[Encoded], path: Path) -> tuple[list[int], str]:
    """Writes the examples to an Arrow file, which training maps instead of holding in memory.

    Returns:
        The length of each, in tokens, and the SHA-256 of all of them.
    """
    import pyarrow as pa

    column = pa.list_(pa.int32())
    schema = pa.schema({"input_ids": column, "labels": column})
    lengths: list[int] = []
    total = hashlib.sha256()
    held: list[dict[str, list[int]]] = []
    partial = path.with_name(path.name + ".partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for example in examples:
            lengths.append(len(example.input_ids))
            held.append({"input_ids": example.input_ids, "labels": example.labels})
            total.update(repr(held[-1]).encode())
            if len(held) == _ROWS_PER_BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(held, schema=schema))
                held = []
        if held:
            writer.write_batch(pa.RecordBatch.from_pylist(held, schema=schema))
    partial.replace(path)
    return lengths, total.hexdigest()


def _identity(
    student: Student, config: Train, seed: int, template: str, data: str
) -> dict[str, Any]:
    """All that the trained weights depend on."""
    return {
        "weights": weights_identity(student.model),
        "dtype": student.dtype,
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


# --- around training ------------------------------------------------------------------------------


@contextlib.contextmanager
def _stops_after_a_step(watch: Watch) -> Iterator[None]:
    """Ctrl-C and SIGTERM let the step end and save; stopped within one, weights would be half new.

    A second Ctrl-C stops at once, and the last checkpoint stands.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        if watch.stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        watch.stop = True

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """Turns an out-of-memory error into what to lower."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and "out of memory" not in text and "can't allocate memory" not in text:
            raise
        raise UserError(
            "train: memory does not suffice. Lower train.batch_size (and raise "
            "train.gradient_accumulation by the same factor, for the same training), set "
            "train.gradient_checkpointing: true, lower train.max_length and filter out what is "
            f"longer, or train adapters with train.lora. ({text.strip().splitlines()[0]})"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the libraries' bars and remarks from the user's screen; errors still show."""
    import warnings

    import datasets
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    data_bars = datasets.utils.logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if data_bars:
            datasets.enable_progress_bars()
