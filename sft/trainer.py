"""TRL's SFTTrainer over tokens and labels that are ready, made to stop, resume and log soundly."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.checkpoints import Meter, StepLog, keep_last, mark_whole
from sft.loss import has_plain_head, summed_loss
from synth.errors import UserError, nearest
from synth.training_config import Train

_POOL = 50  # batches among which examples are sorted by length


def grouped_order(lengths: Sequence[int], batch: int, seed: int, epoch: int) -> list[int]:
    """The order of the examples in an epoch: random, with examples of like length in a batch.

    It depends on nothing but its arguments, so a resumed run meets the same batches. The longest
    batch of all comes first, so that memory that does not suffice shows at once.

    >>> grouped_order([3, 9, 3, 9, 5], 2, 0, 0)[:2]
    [3, 1]
    """
    chance = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    chance.shuffle(order)
    batches = []
    for start in range(0, len(order), batch * _POOL):
        pool = sorted(order[start : start + batch * _POOL], key=lengths.__getitem__, reverse=True)
        batches += [pool[i : i + batch] for i in range(0, len(pool), batch)]
    # The batch that is not full is cut from the end of the order, so it has to stay there.
    last = [batches.pop()] if batches and len(batches[-1]) < batch else []
    chance.shuffle(batches)
    if epoch == 0 and batches:
        longest = max(range(len(batches)), key=lambda i: max(lengths[j] for j in batches[i]))
        batches.insert(0, batches.pop(longest))
    return [index for group in batches + last for index in group]


class GroupedSampler:
    """`grouped_order` as the trainer's data loader wants it."""

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(grouped_order(self.lengths, self.batch, self.seed, self.epoch))


@dataclass
class Watch:
    """What is counted and said while the student trains.

    Attributes:
        log: Where the lines go.
        on_progress: Gets each line as it is written, with `max_steps` added.
        keep_checkpoints: How many checkpoints stay.
        meter: What has been done so far.
        stop: Set from outside to stop after the step in progress, with a checkpoint.
    """

    log: StepLog
    on_progress: Callable[[dict[str, Any]], None] | None = None
    keep_checkpoints: int = 1
    meter: Meter = field(default_factory=Meter)
    stop: bool = False
    _began: float = 0.0
    _said: tuple[int, float] = (0, 0.0)

    def step_begins(self) -> None:
        """Starts the clock."""
        self._began = time.monotonic()

    def batch_done(self, tokens: int, loss_tokens: int, loss: float) -> None:
        """Counts one batch.

        Raises:
            UserError: The loss is not a number any more.
        """
        self.meter.tokens += tokens
        self.meter.loss_tokens += loss_tokens
        if not math.isfinite(loss):
            raise UserError(
                f"train: the loss became {loss} in step {self.meter.step + 1}; lower "
                "train.learning_rate, or look for broken weights or data. The last checkpoint "
                "is from before"
            )

    def step_ends(self, step: int) -> None:
        """Stops the clock."""
        self.meter.step = step
        self.meter.seconds += time.monotonic() - self._began

    def says(self, logs: dict[str, Any], epoch: float, max_steps: int) -> None:
        """Writes the line of a step."""
        if "loss" not in logs:
            return  # the trainer's summary at the end
        meter = self.meter
        tokens, seconds = meter.tokens - self._said[0], meter.seconds - self._said[1]
        self._said = (meter.tokens, meter.seconds)
        row = {
            "step": meter.step,
            "epoch": round(epoch, 4),
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "tokens": meter.tokens,
            "loss_tokens": meter.loss_tokens,
            "tokens_per_second": round(tokens / seconds, 2) if seconds else 0.0,
            "seconds": round(meter.seconds, 3),
        }
        self.log.append(row)
        if self.on_progress:
            self.on_progress({**row, "max_steps": max_steps})

    def saved(self, checkpoint: Path) -> None:
        """Makes a checkpoint count and drops older ones."""
        mark_whole(checkpoint, self.meter)
        keep_last(checkpoint.parent, max(1, self.keep_checkpoints))

    def resumes(self, meter: Meter) -> None:
        """Goes on from a checkpoint."""
        self.meter = meter
        self._said = (meter.tokens, meter.seconds)


def build_trainer(
    model: Any,
    tokenizer: Any,
    dataset: Any,
    lengths: Sequence[int],
    config: Train,
    folder: Path,
    seed: int,
    watch: Watch,
) -> Any:
    """The trainer of a student.

    Args:
        model: The student.
        tokenizer: Its tokenizer, for the padding token and for checkpoints.
        dataset: A `datasets.Dataset` with input_ids and labels, used as they are.
        lengths: Tokens of each example.
        config: The section `train`.
        folder: Where checkpoints go.
        seed: Seed of order, adapters and dropout.
        watch: What counts, logs and stops.
    """
    import torch
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTTrainer

    class StudentTrainer(SFTTrainer):  # type: ignore[misc]
        """SFTTrainer with our order of examples, our loss off the GPU, and no calls home."""

        plain_head = False

        def _get_train_sampler(self, train_dataset: Any = None) -> GroupedSampler:
            return GroupedSampler(lengths, config.batch_size, seed)

        def training_step(
            self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
        ) -> Any:
            tokens = int(inputs["attention_mask"].sum())
            loss_tokens = int((inputs["labels"] != -100).sum())
            loss = super().training_step(model, inputs, num_items_in_batch)
            watch.batch_done(tokens, loss_tokens, float(loss))
            return loss

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            if not self.plain_head or return_outputs:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            labels = inputs["labels"]
            rest = {key: value for key, value in inputs.items() if key != "labels"}
            inner = _inner(model)
            hidden = inner.base_model(**rest, use_cache=False).last_hidden_state
            total = summed_loss(hidden, labels, inner.get_output_embeddings())
            if num_items_in_batch is None:
                num_items_in_batch = (labels[:, 1:] != -100).sum().clamp(min=1)
            return total / num_items_in_batch

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """Writes none; the card of a student is made where it is published."""

        def _send_telemetry(self) -> None:
            """Sends none."""

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
            watch.says(logs, state.epoch or 0.0, state.max_steps)

        def on_save(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
            refuse_broken(model, state.global_step)
            watch.saved(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    trainer = StudentTrainer(
        model=model,
        args=_arguments(config, folder, seed),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=_lora(config, model),
        callbacks=[Follow()],
    )
    trainer.remove_callback(PrinterCallback)
    on_gpu = torch.cuda.is_available()
    trainer.plain_head = not on_gpu and has_plain_head(_inner(trainer.model))
    return trainer


def refuse_broken(model: Any, step: int) -> None:
    """Raises UserError where a weight is not a number, before such weights are kept."""
    import torch

    for name, weight in model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise UserError(
                f"train: weights became nan or infinite by step {step} ({name}); lower "
                "train.learning_rate"
            )


def _inner(model: Any) -> Any:
    """The model itself, without the wrapper that adapters bring."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _lora(config: Train, model: Any) -> Any:
    """The section `train.lora` in PEFT's words.

    Raises:
        UserError: No layer has a name that `target_modules` asks for.
    """
    if config.lora is None:
        return None
    from peft import LoraConfig

    if isinstance(config.lora.target_modules, list):
        layers = {name.rpartition(".")[2]: name for name, _ in model.named_modules() if name}
        for wanted in config.lora.target_modules:
            if wanted.rpartition(".")[2] not in layers:
                raise UserError(
                    f"train.lora.target_modules: the student has no layer {wanted!r}"
                    f"{nearest(wanted, layers)}"
                )

    return LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
        task_type="CAUSAL_LM",
    )


def _arguments(config: Train, folder: Path, seed: int) -> Any:
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
    return SFTConfig(
        output_dir=str(folder),
        # The data is ready: nothing may be rendered, masked or cut again.
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
        num_train_epochs=config.epochs,
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
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,  # it would show the last good loss in place of nan
        save_strategy="steps",
        save_steps=config.save_steps or 0.1,  # below 1 it is the share of all steps
        save_total_limit=None,  # ours go once a newer one counts
        seed=seed,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        report_to="none",
        disable_tqdm=True,
        push_to_hub=False,
    )
