"""What is counted, said and saved while a student trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.training.checkpoints import Meter, StepLog, keep_last, mark_whole
from sft.training.distributed import all_reduce_any
from synth.core.errors import UserError


@dataclass
class TrainingMonitor:
    """What is counted and said while the student trains.

    Attributes:
        log: Where the lines go.
        on_progress: Gets each line as it is written, with `max_steps` added.
        keep_checkpoints: How many checkpoints stay.
        meter: What has been done so far.
        asked: Set from outside to stop after the step in progress, with a checkpoint.
        stop: Whether that was asked of any process by the end of the last step.
        writes: Whether this process writes; of several, one does.
    """

    log: StepLog
    on_progress: Callable[[dict[str, Any]], None] | None = None
    keep_checkpoints: int = 1
    meter: Meter = field(default_factory=Meter)
    asked: bool = False
    stop: bool = False
    writes: bool = True
    _began: float = 0.0
    _said: tuple[int, float, int] = (0, 0.0, 0)
    _parts: dict[str, float] = field(default_factory=dict)

    def step_begins(self) -> None:
        """Starts the clock."""
        self._began = time.monotonic()

    def batch_done(
        self, tokens: int, loss_tokens: int, loss: float, parts: dict[str, float] | None = None
    ) -> None:
        """Counts one batch.

        Args:
            tokens: That went through the student, padding not counted.
            loss_tokens: Those of them that carried loss.
            loss: Its loss.
            parts: What the loss is made of, each summed over the labelled tokens.

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

    def step_ends(self, step: int) -> None:
        """Stops the clock, and finds out whether to stop; of several processes all call it."""
        self.stop = all_reduce_any(self.asked)
        self.meter.step = step
        self.meter.seconds += time.monotonic() - self._began

    def says(self, logs: dict[str, Any], epoch: float, max_steps: int) -> None:
        """Writes the line of a step."""
        if "loss" not in logs:
            return  # the trainer's summary at the end
        meter = self.meter
        row = {
            "step": meter.step,
            "epoch": round(epoch, 4),
            "loss": logs["loss"],
            **self.parts(),
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "tokens": meter.tokens,
            "loss_tokens": meter.loss_tokens,
            "tokens_per_second": 0.0,
            "seconds": round(meter.seconds, 3),
        }
        tokens, seconds = meter.tokens - self._said[0], meter.seconds - self._said[1]
        if seconds:
            row["tokens_per_second"] = round(tokens / seconds, 2)
        self._said = (meter.tokens, meter.seconds, meter.loss_tokens)
        self._parts = {}
        if self.writes:
            self.log.append(row)
        if self.on_progress:
            self.on_progress({**row, "max_steps": max_steps})

    def parts(self) -> dict[str, float]:
        """What the loss was made of since the last line, a labelled token."""
        since = max(1, self.meter.loss_tokens - self._said[2])
        return {name: round(total / since, 6) for name, total in self._parts.items()}

    def saved(self, checkpoint: Path) -> None:
        """Makes a checkpoint count, once all processes have written their part, and drops older."""
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        if self.writes:
            mark_whole(checkpoint, self.meter)
            keep_last(checkpoint.parent, max(1, self.keep_checkpoints))

    def resumes(self, meter: Meter) -> None:
        """Goes on from a checkpoint."""
        self.meter = meter
        self._said = (meter.tokens, meter.seconds, meter.loss_tokens)


def follow(
    watch: TrainingMonitor,
    epochs: Callable[[float, int], float] | None = None,
    on_save: Callable[[Path], None] | None = None,
) -> Any:
    """A trainer's callback that passes its events on.

    Args:
        watch: Where they go.
        epochs: From the trainer's own count of epochs and its number of processes to the one that
            is logged; None: that count.
        on_save: Gets a checkpoint's folder before the checkpoint counts.
    """
    from transformers import TrainerCallback

    class Follow(TrainerCallback):  # type: ignore[misc]
        """Passes the trainer's events on."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch.step_begins()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch.step_ends(state.global_step)
            if watch.stop:
                control.should_save = control.should_training_stop = True
            if control.should_save:
                # A line ends where a checkpoint does, so a resumed run writes the same lines.
                control.should_log = True

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any
        ) -> None:
            epoch = state.epoch or 0.0
            watch.says(logs, epochs(epoch, args.world_size) if epochs else epoch, state.max_steps)

        def on_save(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
            refuse_broken(model, state.global_step)
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if on_save:
                on_save(checkpoint)
            watch.saved(checkpoint)

    return Follow()


def refuse_broken(model: Any, step: int) -> None:
    """Raises UserError where a weight is not a number, before such weights are kept."""
    import torch

    for name, weight in model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise UserError(
                f"train: weights became nan or infinite by step {step} ({name}); lower "
                "train.learning_rate"
            )
