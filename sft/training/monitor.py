"""What is counted, logged and saved while a student trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from sft.losses.hidden_states import HiddenStateLoss
from sft.training.checkpoints import Meter, StepLog, keep_last, mark_whole
from sft.training.collator import BatchDataset
from sft.training.distributed import PadToWorldSize, all_reduce_any, save_projections
from synth.core.errors import UserError


@dataclass(eq=False)
class TrainingMonitor(TrainerCallback):  # type: ignore[misc]
    """Counts, logs, saves and stops, as a callback of the trainer."""

    log: StepLog
    # Gets each line as it is written, with `max_steps` added.
    on_progress: Callable[[dict[str, Any]], None] | None = None
    keep_checkpoints: int = 1
    writes: bool = True  # of several processes, one does
    meter: Meter = field(default_factory=Meter)  # what has been done so far
    stop_requested: bool = False  # set from outside: stop after this step, with a checkpoint
    batches: BatchDataset | None = None  # what epochs are counted by; None: the trainer's own count
    hidden: HiddenStateLoss | None = None  # its projections are saved with each checkpoint
    _began: float = 0.0
    _logged: Meter = field(default_factory=Meter)
    _parts: dict[str, float] = field(default_factory=dict)

    def batch_done(
        self, tokens: int, loss_tokens: int, loss: float, parts: dict[str, float] | None = None
    ) -> None:
        """Counts one batch, and the parts of its loss, each summed over the labelled tokens.

        Raises:
            UserError: The loss is not a number any more.
        """
        self.meter.tokens += tokens
        self.meter.loss_tokens += loss_tokens
        for name, value in (parts or {}).items():
            self._parts[name] = self._parts.get(name, 0.0) + value
        if not math.isfinite(loss):
            raise UserError(
                f"train: the loss became {loss} in step {self.meter.step + 1}; lower "
                "train.learning_rate, or look for broken weights or data. The last checkpoint "
                "is from before"
            )

    def parts(self) -> dict[str, float]:
        """Returns what the loss was made of since the last line, a labelled token."""
        tokens = max(1, self.meter.loss_tokens - self._logged.loss_tokens)
        return {name: round(total / tokens, 6) for name, total in self._parts.items()}

    def resumes(self, meter: Meter) -> None:
        """Goes on from a checkpoint."""
        self.meter, self._logged = meter, replace(meter)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Starts the clock."""
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stops the clock, and the training where any process was asked to."""
        if all_reduce_any(self.stop_requested):
            control.should_save = control.should_training_stop = True
        self.meter.step = state.global_step
        self.meter.seconds += time.monotonic() - self._began
        if control.should_save:
            # A line ends where a checkpoint does, so a resumed run writes the same lines.
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Writes the line of a step."""
        if "loss" not in logs:
            return  # the trainer's summary at the end
        meter, epoch = self.meter, state.epoch or 0.0
        if self.batches is not None:
            # All epochs are one to the trainer, so its own count is a share of the whole.
            padded = len(PadToWorldSize(self.batches, args.world_size))
            epoch = self.batches.order.epochs(min(len(self.batches), round(epoch * padded)))
        tokens, seconds = meter.tokens - self._logged.tokens, meter.seconds - self._logged.seconds
        row = {
            "step": meter.step,
            "epoch": round(epoch, 4),
            "loss": logs["loss"],
            **self.parts(),
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "tokens": meter.tokens,
            "loss_tokens": meter.loss_tokens,
            "tokens_per_second": round(tokens / seconds, 2) if seconds else 0.0,
            "seconds": round(meter.seconds, 3),
        }
        self._logged = replace(meter)
        self._parts.clear()
        if self.writes:
            self.log.append(row)
        if self.on_progress:
            self.on_progress({**row, "max_steps": state.max_steps})

    def on_save(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        """Makes a checkpoint count, once all processes have written their part, and drops older."""
        check_weights(model, state.global_step)
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.hidden:
            save_projections(self.hidden, checkpoint, self.writes)
        PartialState().wait_for_everyone()
        if self.writes:
            mark_whole(checkpoint, self.meter)
            keep_last(checkpoint.parent, max(1, self.keep_checkpoints))


def check_weights(model: Any, step: int) -> None:
    """Raises UserError where a weight is not a number, before such weights are kept."""
    for name, weight in model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise UserError(
                f"train: weights became nan or infinite by step {step} ({name}); lower "
                "train.learning_rate"
            )
