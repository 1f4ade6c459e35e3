"""The trainer of on-policy distillation: DistillationTrainer of TRL with our order and loss."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from sft.data.encoding import IGNORED
from sft.losses.cross_entropy import has_plain_head, states_and_head
from sft.losses.cross_tokenizer import CrossTokenizer
from sft.losses.divergences import Divergence
from sft.losses.soft_labels import Online, summed_soft_loss
from sft.models.layers import bare
from sft.training.monitor import TrainingMonitor, refuse_broken
from synth.config.distillation import OnPolicy


def trainer_class() -> type[Any]:
    """The trainer; a function, so that nothing is imported before it is needed."""
    import torch
    from transformers import set_seed
    from trl import DistillationTrainer

    class OnPolicyTrainer(DistillationTrainer):  # type: ignore[misc]
        """DistillationTrainer with our prompts, order, loss and stops, and no calls home."""

        def teach(
            self,
            teacher: Any,
            how: OnPolicy,
            seed: int,
            watch: TrainingMonitor,
            shared: int | None,
            cross: CrossTokenizer | None,
        ) -> None:
            """Takes what TRL's constructor has no place for.

            It would refuse a teacher with another number of output rows, and move it.
            """
            self.teacher_model = teacher.eval().requires_grad_(False)
            self.order_seed, self.watch = seed, watch
            self.shared, self.cross = shared, cross
            self.divergence = divergence_of(how)
            models = (bare(self.model), bare(teacher))
            self.plain = {id(model): has_plain_head(model) for model in models}
            self.counts = (0, 0)

        def _get_train_sampler(self, dataset: Any = None) -> Prompts:
            every = self.args.gradient_accumulation_steps
            batch = self.args.per_device_train_batch_size * every * self.accelerator.num_processes
            return Prompts(len(self.train_dataset), batch, every, self.order_seed)

        def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[Any], None, dict[str, Any]]:
            return prompts, None, {}  # they are tokens

        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> list[list[int]]:
            # By step and process, so that a resumed run gives the same answers.
            place = f"{self.order_seed}/{self.state.global_step}/{self.accelerator.process_index}"
            set_seed(random.Random(place).getrandbits(32))
            try:
                answers: list[list[int]] = super()._generate_single_turn(*args, **kwargs)
            except RuntimeError as error:
                if "probability tensor" in str(error):  # torch.multinomial of nan
                    refuse_broken(self.model, self.state.global_step)
                raise
            return answers

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            found: dict[str, Any] = super()._generate_and_score_completions(inputs)
            if self.cross:
                found["teacher_prompt"] = [example["teacher_prompt"] for example in inputs]
            return found

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            # Over all processes, so that they stop together where one of them has no number.
            self.watch.batch_done(*self.counts, float(self.accelerator.reduce(loss.clone())))
            return loss

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            student = self.accelerator.unwrap_model(model)
            # Within the wrapper's forward call, as TRL does, so that it sees the backward pass.
            loss = self._forward_redirection(model, student, self._loss, student, inputs)
            return (loss, None) if return_outputs else loss

        def _loss(self, student: Any, inputs: dict[str, Any]) -> Any:
            """The share of this batch in the loss of the step."""
            ids, mask, labels = _rows(inputs, self.processing_class.pad_token_id)
            counts = torch.stack([mask.sum(), (labels != IGNORED).sum()])
            self.counts = tuple(self.accelerator.reduce(counts).tolist())
            states, head = self._read(bare(student), ids, mask)
            if self.cross:
                total = self.cross.loss(
                    states,
                    head,
                    ids,
                    labels,
                    inputs["teacher_prompt"],
                    self.eos_token_ids,
                    self._teacher,
                )
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
            """Last hidden states and what makes logits of them."""
            inputs = {"input_ids": ids, "attention_mask": mask}
            return states_and_head(model, inputs, self.plain[id(model)])

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """Writes none; the card of a student is made where it is published."""

        def _send_telemetry(self) -> None:
            """Sends none."""

    return OnPolicyTrainer


class Prompts:
    """The order of the prompts: every one once an epoch, at random, in whole steps.

    TRL's sampler leaves out the prompts that fill no step, and starts its order anew when a run is
    resumed. Here the last step of an epoch is filled up with prompts from the epoch's beginning.

    Args:
        prompts: How many there are.
        batch: How many make up an optimizer step, over all processes.
        repeats: How often the data loader is to give those of a step: TRL takes them at the first
            of its batches and splits their answers over all of them.
        seed: Of the order.
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


def divergence_of(how: OnPolicy) -> Divergence:
    """The section `train.on_policy` as a divergence; beta as TRL and Agarwal et al. have it."""
    if how.beta == 0:
        return Divergence("forward_kl", how.loss_temperature)
    if how.beta == 1:
        return Divergence("reverse_kl", how.loss_temperature)
    return Divergence("jsd", how.loss_temperature, how.beta)


def _rows(inputs: dict[str, Any], pad: int) -> tuple[Any, Any, Any]:
    """Prompts and answers as rows that start at their first token: ids, mask, labels.

    TRL pads prompts on the left, where a model with absolute positions reads them wrong.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

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
