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

from sft.losses.objective import PARTS, DistillationLoss, LossInputs, attach_loss
from sft.training.collator import BatchDataset, split_inputs
from sft.training.distributed import PadToWorldSize, save_projections
from sft.training.monitor import TrainingMonitor, follow
from synth.config.train import Train
from synth.core.errors import UserError


def build_trainer(
    model: Any,
    tokenizer: Any,
    dataset: Any,
    groups: BatchDataset,
    config: Train,
    folder: Path,
    seed: int,
    watch: TrainingMonitor,
    objective: DistillationLoss | None,
    adapters: Any = None,
) -> Any:
    """The trainer of a student.

    Args:
        model: The student.
        tokenizer: Its tokenizer, for the padding token and for checkpoints.
        dataset: The examples as a `datasets.Dataset`, which TRL wants to see.
        groups: The batches of the whole training.
        config: The section `train`.
        folder: Where checkpoints go.
        seed: Seed of adapters and dropout.
        watch: What counts, logs and stops.
        objective: The loss; None: TRL's own, of Liger where the config asks for it.
        adapters: PEFT's config of adapters, or None.

    Raises:
        UserError: Layers that are named cannot have adapters.
    """
    import torch
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTTrainer

    class StudentTrainer(SFTTrainer):  # type: ignore[misc]
        """SFTTrainer with our batches, our loss, and no calls home."""

        def get_train_dataloader(self) -> Any:
            loader = torch.utils.data.DataLoader(
                PadToWorldSize(groups, self.accelerator.num_processes),
                batch_size=1,
                shuffle=False,
                collate_fn=lambda items: items[0],
                pin_memory=self.args.dataloader_pin_memory,
            )
            return self.accelerator.prepare(loader)

        def training_step(
            self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
        ) -> Any:
            labelled = (inputs["labels"][:, 1:] != -100).sum()
            self.batch = inputs
            self.parts: dict[str, Any] = {}
            try:
                loss = super().training_step(model, inputs, num_items_in_batch)
                counts = [float(inputs["tokens"]), labelled, *self.parts.values()]
                summed = torch.stack([torch.as_tensor(c, dtype=torch.float64) for c in counts])
                if self.accelerator.num_processes > 1:
                    summed = self.accelerator.reduce(summed.to(loss.device))
                tokens, loss_tokens, *parts = summed.tolist()
                watch.batch_done(
                    int(tokens),
                    int(loss_tokens),
                    float(loss),
                    dict(zip(self.parts, parts, strict=True)),
                )
            except UserError:
                save_batch(folder.parent, inputs, watch.meter.step + 1)
                raise
            return loss

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            plain, rest = split_inputs(inputs)
            if objective is None:
                return super().compute_loss(model, plain, return_outputs, num_items_in_batch)
            labels = plain.pop("labels")
            extra = LossInputs(labels, rest.get("soft", []), rest.get("weights"))
            found = model(**plain, extra=extra)
            if config.method != "sft":
                self.parts = {name: found[name] for name in PARTS}
            if num_items_in_batch is None:
                num_items_in_batch = (labels[:, 1:] != -100).sum().clamp(min=1)
            # Gradients are averaged over processes, and each has a share of the items.
            return found["loss"] / num_items_in_batch * self.accelerator.num_processes

        def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            """Adds what the loss is made of, for trackers too.

            Raises:
                UserError: The gradient was not a number, and so are the weights now.
            """
            if not math.isfinite(logs.get("grad_norm") or 0.0):
                save_batch(folder.parent, self.batch, watch.meter.step)
                raise UserError(
                    f"train: the gradient became {logs['grad_norm']} in step {watch.meter.step}; "
                    "lower train.learning_rate, or look for broken weights or data. The last "
                    "checkpoint is from before"
                )
            super().log({**logs, **watch.parts()} if "loss" in logs else logs, *args, **kwargs)

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """Writes none; the card of a student is made where it is published."""

        def _send_telemetry(self) -> None:
            """Sends none."""

    def epochs(shown: float, processes: int) -> float:
        # All epochs are one to the trainer, so its own count is a share of the whole.
        done = min(len(groups), round(shown * len(PadToWorldSize(groups, processes))))
        return groups.order.epochs(done)

    def on_save(checkpoint: Path) -> None:
        if objective and objective.hidden:
            save_projections(objective.hidden, checkpoint, watch.writes)

    try:
        trainer = StudentTrainer(
            model=model,
            args=arguments(config, folder, seed),
            train_dataset=dataset,
            data_collator=lambda items: items[0],
            processing_class=tokenizer,
            peft_config=adapters,
            callbacks=[follow(watch, epochs, on_save)],
        )
    except ValueError as error:
        if adapters is None:
            raise
        raise UserError(f"train.lora.target_modules: {error}") from error  # no such adapters
    trainer.remove_callback(PrinterCallback)
    if objective:
        # Some families say that they take no number of items; the loss here divides by it always.
        trainer.model_accepts_loss_kwargs = True
        attach_loss(trainer.model, objective)
        if objective.hidden:
            objective.hidden.register(trainer.model)
    return trainer


def end_trackers(names: Iterable[str]) -> None:
    """Ends the run of each tracker that keeps one open, so that the next training has its own."""
    for name in {"wandb", "trackio"} & {*names} & {*sys.modules}:
        with contextlib.suppress(RuntimeError):  # trackio's, where none was begun
            sys.modules[name].finish()


def save_batch(folder: Path, batch: dict[str, Any], step: int) -> None:
    """Keeps the batch on which a training broke: its tokens, its labels and the records' ids."""
    found = {
        "step": step,
        "records": batch.get("records"),
        "input_ids": batch["input_ids"].tolist(),
        "labels": batch["labels"].tolist(),
    }
    (folder / "broken-batch.json").write_text(json.dumps(found), encoding="utf-8")


def arguments(config: Train, folder: Path, seed: int) -> Any:
    """The section `train` in TRL's words."""
    import torch
    from trl import SFTConfig

    on_gpu = torch.cuda.is_available()
    scheduler, scheduler_options = config.scheduler, {}
    if config.scheduler == "constant":
        scheduler = "constant_with_warmup"  # type: ignore[assignment]
    elif config.min_lr_ratio:
        scheduler = "cosine_with_min_lr"  # type: ignore[assignment]
        scheduler_options = {"min_lr_rate": config.min_lr_ratio}
    auto_bf16 = on_gpu and torch.cuda.is_bf16_supported()
    # A chain trains several models in one process, each with a place of its own.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder.parent / "tensorboard")
    run, stage = folder.parent.parent.name, folder.parent.name
    return SFTConfig(
        output_dir=str(folder),
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
