"""On-policy distillation: the student answers, and learns at each token what its teacher says.

TRL's DistillationTrainer generates and trains (Agarwal et al. 2023, arXiv 2306.13649); here it gets
our prompts, our order, our loss and our stops. Where the tokenizers differ, the loss is GOLD's
(`sft.losses.cross_tokenizer`). What is done otherwise than in TRL, and why: docs/on-policy.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback
from trl import DistillationConfig, DistillationTrainer

from sft.data.chat_template import OPENING
from sft.data.encoding import IGNORED
from sft.losses.cross_entropy import has_plain_head, states_and_head
from sft.losses.cross_tokenizer import CrossTokenizer, before_answer
from sft.losses.divergences import Divergence
from sft.losses.soft_labels import Online, summed_soft_loss
from sft.models.layers import bare
from sft.models.student import lora
from sft.training.monitor import TrainingMonitor, check_weights
from sft.training.on_policy_checks import check_adapters, check_room, shared_or_cross
from sft.training.trainer import LocalTrainer, trl_arguments
from synth.config.distillation import OnPolicy
from synth.config.train import Train
from synth.core.record import Message


class OnPolicyTrainer(LocalTrainer, DistillationTrainer):  # type: ignore[misc]
    """DistillationTrainer with our prompts, order, loss and stops.

    Student and teacher have `shared` ids in common, or `cross` is the loss across tokenizers.
    """

    def __init__(
        self,
        teacher: Any,
        on_policy: OnPolicy,
        seed: int,
        monitor: TrainingMonitor,
        shared: int | None,
        cross: CrossTokenizer | None,
        **options: Any,
    ) -> None:
        super().__init__(callbacks=[monitor], **options)
        self.remove_callback(PrinterCallback)
        # TRL's constructor would refuse a teacher with another number of output rows, and move it.
        self.teacher_model = teacher.eval().requires_grad_(False)
        self.order_seed, self.monitor = seed, monitor
        self.shared, self.cross = shared, cross
        # As TRL and Agarwal et al. have beta, it is the one or the other KL at its ends.
        beta, temperature = on_policy.beta, on_policy.loss_temperature
        if 0 < beta < 1:
            self.divergence = Divergence("jsd", temperature, beta)
        else:
            self.divergence = Divergence("reverse_kl" if beta else "forward_kl", temperature)
        self.plain = {
            id(model): has_plain_head(model) for model in (bare(self.model), bare(teacher))
        }
        self.counts = (0, 0)

    def _get_train_sampler(self, dataset: Any = None) -> PromptSampler:
        repeats = self.args.gradient_accumulation_steps
        batch = self.args.per_device_train_batch_size * repeats * self.accelerator.num_processes
        return PromptSampler(len(self.train_dataset), batch, repeats, self.order_seed)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[Any], None, dict[str, Any]]:
        return prompts, None, {}  # they are tokens

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        # By step and process, so that a resumed run gives the same answers.
        key = f"{self.order_seed}/{self.state.global_step}/{self.accelerator.process_index}"
        set_seed(random.Random(key).getrandbits(32))
        try:
            answers: list[list[int]] = super()._generate_single_turn(*args, **kwargs)
        except RuntimeError as error:
            if "probability tensor" in str(error):  # torch.multinomial of nan
                check_weights(self.model, self.state.global_step)
            raise
        return answers

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.cross:
            batch["teacher_prompt"] = [example["teacher_prompt"] for example in inputs]
        return batch

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Counts the batch."""
        loss = super().training_step(*args, **kwargs)
        # Over all processes, so that they stop together where one of them has no number.
        self.monitor.batch_done(*self.counts, float(self.accelerator.reduce(loss.clone())))
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Returns the share of this batch in the loss of the step."""
        student = self.accelerator.unwrap_model(model)
        # Within the wrapper's forward call, as TRL does, so that it sees the backward pass.
        loss = self._forward_redirection(model, student, self._loss, student, inputs)
        return (loss, None) if return_outputs else loss

    def _loss(self, student: Any, inputs: dict[str, Any]) -> Any:
        ids, mask, labels = _rows(inputs, self.processing_class.pad_token_id)
        counts = torch.stack([mask.sum(), (labels != IGNORED).sum()])
        self.counts = tuple(self.accelerator.reduce(counts).tolist())
        states, head = self._read(bare(student), ids, mask)
        if self.cross:
            prompts, end = inputs["teacher_prompt"], self.eos_token_ids
            total = self.cross.loss(states, head, ids, labels, prompts, end, self._teacher)
            # A mean over answers: each batch of a step has as many.
            return total / (len(ids) * self.args.gradient_accumulation_steps)
        with torch.no_grad():
            online = Online(*self._teacher(ids, mask))
        total = summed_soft_loss(
            states, labels, head, [online], self.divergence, 0.0, None, self.shared
        ).total
        # A mean over all tokens of the step; gradients are averaged over processes.
        return total * self.accelerator.num_processes / inputs["num_items_in_batch"]

    def _teacher(self, ids: Any, mask: Any) -> tuple[Any, Any]:
        teacher = bare(self.teacher_model)
        return self._read(teacher, ids.to(teacher.device), mask.to(teacher.device))

    def _read(self, model: Any, ids: Any, mask: Any) -> tuple[Any, Any]:
        """Returns last hidden states and what makes logits of them."""
        inputs = {"input_ids": ids, "attention_mask": mask}
        return states_and_head(model, inputs, self.plain[id(model)])


class PromptSampler:
    """The order of the prompts: every one once an epoch, at random, in whole steps.

    TRL's sampler leaves out the prompts that fill no step, and starts its order anew when a run is
    resumed. Here the last step of an epoch is filled up with prompts from the epoch's beginning.
    The `batch` prompts of a step, over all processes, are given `repeats` times: TRL takes them at
    the first of its batches and splits their answers over all of them.
    """

    def __init__(self, prompts: int, batch: int, repeats: int, seed: int) -> None:
        self.prompts, self.batch, self.repeats, self.seed = prompts, batch, repeats, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.prompts // self.batch) * self.batch * self.repeats

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.prompts))
        random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        filled = [order[i % len(order)] for i in range(len(self) // self.repeats)]
        steps = iter(filled)
        while step := list(islice(steps, self.batch)):
            for _ in range(self.repeats):
                yield from step


def _rows(inputs: dict[str, Any], pad: int) -> tuple[Any, Any, Any]:
    """Returns prompts and answers as rows that start at their first token: ids, mask, labels.

    TRL pads prompts on the left, where a model with absolute positions reads them wrong.
    """
    ids, labels = [], []
    for row in range(len(inputs["prompt_ids"])):
        prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()]
        answer = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()]
        ids.append(torch.cat([prompt, answer]))
        labels.append(torch.cat([torch.full_like(prompt, IGNORED), answer]))
    mask = [torch.ones_like(row) for row in ids]
    return (
        pad_sequence(ids, batch_first=True, padding_value=pad),
        pad_sequence(mask, batch_first=True, padding_value=0),
        pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    )


def build_on_policy(
    model: Any,
    tokenizer: Any,
    teacher: Any,
    teacher_tokenizer: Any,
    prompts: Sequence[list[Message]],
    config: Train,
    folder: Path,
    seed: int,
    monitor: TrainingMonitor,
) -> OnPolicyTrainer:
    """Builds the trainer of a student that learns on its own answers to the prompts.

    The tokenizer has the template of the training; the teacher's is given that of its family, where
    the two differ. The seed is that of order, answers, adapters and dropout.

    Raises:
        UserError: Nothing to answer, a prompt that leaves no room for an answer, or tokenizers
            that differ where `trainer: distillation` is set.
    """
    on_policy = config.on_policy or OnPolicy()
    shared = shared_or_cross(tokenizer, teacher_tokenizer, on_policy)
    check_adapters(config)
    rows = [before_answer(tokenizer, messages, OPENING) for messages in prompts]
    check_room(rows, on_policy, config.max_length, model, *([teacher] if shared else []))
    data: list[dict[str, Any]] = [{"prompt": row} for row in rows]
    cross = None
    if not shared:
        cross = CrossTokenizer(tokenizer, teacher_tokenizer)
        for example, messages in zip(data, prompts, strict=True):
            example["teacher_prompt"] = cross.teacher_prompt(messages)
        check_room([example["teacher_prompt"] for example in data], on_policy, None, teacher)
    common = trl_arguments(config, folder, seed)
    values = {f.name: getattr(common, f.name) for f in fields(TrainingArguments) if f.init}
    suppressed = _not_sampled(model, tokenizer, shared)
    values |= {
        "num_train_epochs": config.epochs,
        "max_completion_length": on_policy.max_new_tokens,
        "temperature": on_policy.temperature,
        "generation_kwargs": {"suppress_tokens": suppressed} if suppressed else None,
    }
    return OnPolicyTrainer(
        teacher,
        on_policy,
        seed,
        monitor,
        shared,
        cross,
        model=model,
        args=DistillationConfig(**values),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora(config, model),
    )


def _not_sampled(model: Any, tokenizer: Any, shared: int | None) -> list[int]:
    """Returns the rows of the output that stand for no token, or for none that the teacher has.

    Sampled, they would be no text, and an index that the teacher lacks.
    """
    rows = bare(model).get_output_embeddings().weight.shape[0]
    if shared is not None:
        return list(range(shared, rows))
    token_ids = set(tokenizer.get_vocab().values())
    return [row for row in range(rows) if row not in token_ids]
