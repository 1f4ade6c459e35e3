"""TRL's SFTTrainer over batches that are ready, made to stop, resume and log soundly."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from sft.data.encoding import IGNORED
from sft.losses.objective import PARTS, DistillationLoss, LossInputs, attach_loss
from sft.models.student import no_adapters
from sft.training.collator import BatchDataset, split_inputs
from sft.training.distributed import PadToWorldSize
from sft.training.monitor import TrainingMonitor
from synth.config.train import Train
from synth.core.errors import UserError
from synth.core.run_folder import UNFINISHED


class LocalTrainer:
    """What our trainers leave out of TRL's: calls home, and a card, which the publishing makes."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes none."""

    def _send_telemetry(self) -> None:
        """Sends none."""


class StudentTrainer(LocalTrainer, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer over batches that are ready, with our loss.

    Args:
        config: The section `train`.
        folder: The training's; checkpoints go into one in it.
        seed: Seed of adapters and dropout.
        batches: Those of the whole training.
        monitor: Counts, logs and stops.
        objective: The loss; None: TRL's own, of Liger where the config asks for it.
        options: Arguments of `SFTTrainer`: model, tokenizer, data set and adapters.

    Raises:
        UserError: Layers that are named cannot have adapters.
    """

    def __init__(
        self,
        config: Train,
        folder: Path,
        seed: int,
        batches: BatchDataset,
        monitor: TrainingMonitor,
        objective: DistillationLoss | None,
        **options: Any,
    ) -> None:
        try:
            super().__init__(
                args=trl_arguments(config, folder, seed),
                data_collator=lambda items: items[0],
                callbacks=[monitor],
                **options,
            )
        except ValueError as error:
            if options.get("peft_config") is None:
                raise
            raise no_adapters(error) from error
        self.remove_callback(PrinterCallback)
        self.folder, self.batches, self.student_loss = folder, batches, objective
        self.monitor, self.logs_parts = monitor, config.method != "sft"
        monitor.batches = batches
        if objective:
            # Some families say that they take no number of items; the loss divides by it always.
            self.model_accepts_loss_kwargs = True
            attach_loss(self.model, objective)
            if objective.hidden:
                monitor.hidden = objective.hidden
                objective.hidden.register(self.model)

    def get_train_dataloader(self) -> Any:
        """Returns the batches, as many for each process."""
        loader = torch.utils.data.DataLoader(
            PadToWorldSize(self.batches, self.accelerator.num_processes),
            batch_size=1,
            shuffle=False,
            collate_fn=lambda items: items[0],
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Any:
        """Counts the batch, and keeps one whose loss is not a number."""
        labelled = (inputs["labels"][:, 1:] != IGNORED).sum()
        self.batch = inputs
        self.parts: dict[str, Any] = {}
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
            counts = [float(inputs["tokens"]), labelled, *self.parts.values()]
            summed = torch.stack([torch.as_tensor(c, dtype=torch.float64) for c in counts])
            if self.accelerator.num_processes > 1:
                summed = self.accelerator.reduce(summed.to(loss.device))
            tokens, loss_tokens, *values = summed.tolist()
            parts = dict(zip(self.parts, values, strict=True))
            self.monitor.batch_done(int(tokens), int(loss_tokens), float(loss), parts)
        except UserError as error:
            path = self._save_batch(self.monitor.meter.step + 1)
            raise UserError(f"{error}. The batch is in {path}") from error
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Returns the share of this batch in the loss of the step."""
        plain, rest = split_inputs(inputs)
        if self.student_loss is None:
            return super().compute_loss(model, plain, return_outputs, num_items_in_batch)
        labels = plain.pop("labels")
        extra = LossInputs(labels, rest.get("soft", []), rest.get("weights"))
        sums = model(**plain, extra=extra)
        if self.logs_parts:
            self.parts = {name: sums[name] for name in PARTS}
        if num_items_in_batch is None:
            num_items_in_batch = (labels[:, 1:] != IGNORED).sum().clamp(min=1)
        # Gradients are averaged over processes, and each has a share of the items.
        return sums["loss"] / num_items_in_batch * self.accelerator.num_processes

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Adds what the loss is made of, for trackers too.

        Raises:
            UserError: The gradient was not a number, and so are the weights now.
        """
        step = self.monitor.meter.step
        if not math.isfinite(logs.get("grad_norm") or 0.0):
            path = self._save_batch(step)
            raise UserError(
                f"train: the gradient became {logs['grad_norm']} in step {step}; "
                "lower train.learning_rate, or look for broken weights or data. The last "
                f"checkpoint is from before. The batch is in {path}"
            )
        super().log({**logs, **self.monitor.parts()} if "loss" in logs else logs, *args, **kwargs)

    def _save_batch(self, step: int) -> Path:
        """Keeps the batch on which the training broke: tokens, labels and the records' ids."""
        content = {
            "step": step,
            "records": self.batch.get("records"),
            "input_ids": self.batch["input_ids"].tolist(),
            "labels": self.batch["labels"].tolist(),
        }
        path = self.folder / "broken-batch.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return path


def end_trackers(names: Iterable[str]) -> None:
    """Ends the run of each tracker that keeps one open, so that the next training has its own."""
    for name in {"wandb", "trackio"} & {*names} & {*sys.modules}:
        with contextlib.suppress(RuntimeError):  # trackio's, where none was begun
            sys.modules[name].finish()


def trl_arguments(config: Train, folder: Path, seed: int) -> SFTConfig:
    """Returns the section `train` in TRL's words."""
    on_gpu = torch.cuda.is_available()
    scheduler, scheduler_options = config.scheduler, {}
    if config.scheduler == "constant":
        scheduler = "constant_with_warmup"  # type: ignore[assignment]
    elif config.min_lr_ratio:
        scheduler = "cosine_with_min_lr"  # type: ignore[assignment]
        scheduler_options = {"min_lr_rate": config.min_lr_ratio}
    auto_bf16 = on_gpu and torch.cuda.is_bf16_supported()
    # A chain trains several models in one process, each with a place of its own.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
    run, stage = folder.parent.name, folder.name.partition(UNFINISHED)[0]
    return SFTConfig(
        output_dir=str(folder / "checkpoints"),
        run_name=run if stage == "train" else f"{run}-{stage}",
        project="synth-distill",
        # The data is ready: nothing may be rendered, masked or cut again.
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        max_length=None,
        packing=False,
        num_train_epochs=1,  # all epochs are one sequence of groups
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type=scheduler,
        lr_scheduler_kwargs=scheduler_options,
        warmup_steps=config.warmup_ratio,  # below 1 it is the share of all steps
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=auto_bf16 if config.bf16 == "auto" else config.bf16,
        gradient_checkpointing=(
            on_gpu if config.gradient_checkpointing == "auto" else config.gradient_checkpointing
        ),
        gradient_checkpointing_kwargs={"use_reentrant": False},
        ddp_find_unused_parameters=False,
        use_liger_kernel=config.liger,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,  # it would show the last good loss in place of nan
        save_strategy="steps",
        save_steps=config.save_steps or 0.1,  # below 1 it is the share of all steps
        save_total_limit=None,  # ours go once a newer one counts
        seed=seed,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        report_to=config.report_to or "none",
        disable_tqdm=True,
        log_level_replica="error",
        push_to_hub=False,
    )
