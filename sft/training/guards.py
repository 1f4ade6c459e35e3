"""What stands around a training: what it needs, how it is stopped, and what its errors mean."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.config.train import Train
from synth.core.errors import UserError
from synth.core.models import require_transformers
from synth.core.process.interrupts import AGAIN, say_interrupted, stops_gently

if TYPE_CHECKING:
    from sft.training.monitor import TrainingMonitor


def require_packages(config: Train) -> None:
    """Refuses early what would fail late: a missing package, or several GPUs in one process."""
    require_transformers("training")
    for error in config.missing():
        raise error
    import torch

    if torch.cuda.device_count() > 1 and "WORLD_SIZE" not in os.environ:
        raise UserError(
            "several GPUs are visible, and one process uses one: make one visible with "
            "CUDA_VISIBLE_DEVICES=0, or use them all by `accelerate launch -m synth train CONFIG`"
        )


@contextlib.contextmanager
def stops_after_a_step(monitor: TrainingMonitor) -> Iterator[None]:
    """Ctrl-C and SIGTERM let the step end and save; stopped within one, weights would be half new.

    A second Ctrl-C stops at once, and the last checkpoint stands.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(signal_number: int, frame: Any) -> None:
        monitor.stop_requested = True

    def interrupt() -> None:
        monitor.stop_requested = True
        say_interrupted(f"the step ends first, and a checkpoint is saved. {AGAIN}")

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with stops_gently(interrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def memory_errors(config: Train, stored: bool = False) -> Iterator[None]:
    """Turns an out-of-memory error into what to lower; `stored`: soft labels are read from disk."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        named = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not named and "out of memory" not in text and "can't allocate memory" not in text:
            raise
        ways = "\n".join(f"  - {way}" for way in _ways_to_less_memory(config, stored))
        raise UserError(
            f"train: memory does not suffice ({text.strip().splitlines()[0]}). Any of these "
            f"needs less:\n{ways}"
        ) from error


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what the libraries raise on a full disk into the OSError that it is."""
    try:
        yield
    except Exception as error:
        # safetensors tells it in its text; torch says only that it could not write.
        full = "os error 28" in str(error) or "No space left on device" in str(error)
        torn = "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error)
        if isinstance(error, OSError) or not (full or torn):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error


def _ways_to_less_memory(config: Train, stored: bool) -> Iterator[str]:
    if config.layout == "packed":
        yield "lower train.pack_length, down to the longest example"
    if config.batch_size > 1:
        yield (
            "lower train.batch_size, and raise train.gradient_accumulation by the same factor for "
            "the same training"
        )
    if config.gradient_checkpointing is not True:
        yield "train.gradient_checkpointing: true"
    yield "lower train.max_length, and filter out what is longer"
    if config.lora is None:
        yield "train adapters: train.lora"
    elif config.lora.quantization is None:
        yield "train.lora.quantization: 4bit"
    if config.method == "soft_labels" and not stored:
        yield "store the teachers' soft labels first (the section label), so that none is in memory"
    elif config.teachers and not stored:
        yield "load the teachers in fewer bits: quantization: 4bit under train.teachers"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the libraries' bars and remarks from the user's screen; errors still show."""
    import datasets
    from transformers.utils import logging as hf_logging

    # It says at each start that a faster kernel is not there.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    data_bars = datasets.utils.logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
        if data_bars:
            datasets.enable_progress_bars()
