"""What a batch costs the student: hard labels, soft labels, its teachers' layers, or a mix.

It is computed inside the student's own forward call, so that whatever wraps the student (data
parallelism, sharded weights, autocast) is around all of it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import torch

from sft.losses.cross_entropy import has_plain_head, states_and_head, summed_loss
from sft.losses.divergences import Divergence
from sft.losses.hidden_states import HiddenStateLoss
from sft.losses.soft_labels import Online, Stored, summed_soft_loss
from sft.models.layers import bare
from synth.config.distillation import SoftLabels
from synth.config.train import Train

# What is logged beside the loss, each a sum over labelled tokens.
PARTS = ("cross_entropy", "divergence", "hidden_states")


@dataclass(slots=True)
class LossInputs:
    """What a loss needs beside the student's inputs; an object, so that no wrapper casts it."""

    labels: torch.Tensor  # (rows, length)
    # Ids, logits and logsumexp of each teacher's stored labels.
    soft: list[list[torch.Tensor]] = field(default_factory=list)
    weights: torch.Tensor | None = None  # of the teachers, (labelled tokens, teachers)


class DistillationLoss:
    """The loss of `train.method` as a function of student, inputs and labels.

    Args:
        config: The section `train`.
        student: The model that learns.
        teachers: Models in memory, by name; none where their labels are stored.
        hidden: The intermediate layers, with method hidden_states.
        vocabulary: How many ids student and teachers share; None: all.
    """

    def __init__(
        self,
        config: Train,
        student: Any,
        teachers: dict[str, Any] | None = None,
        hidden: HiddenStateLoss | None = None,
        vocabulary: int | None = None,
    ) -> None:
        self.teachers = teachers or {}
        self.hidden, self.vocabulary = hidden, vocabulary
        self.output = config.hidden_states.output if config.hidden_states else 1.0
        self.plain = {id(m): has_plain_head(m) for m in (bare(student), *self.teachers.values())}
        soft = config.soft_labels or (SoftLabels() if config.method == "soft_labels" else None)
        self.divergence: Divergence | None = None
        if soft is not None:
            self.alpha = soft.alpha
            self.divergence = Divergence(
                soft.divergence, soft.temperature, soft.beta, soft.skew, soft.tail
            )

    def __call__(self, student: Any, inputs: dict[str, Any], extra: LossInputs) -> dict[str, Any]:
        """Sums over the labelled tokens: `loss` with gradients, and `PARTS`, detached."""
        labels = extra.labels
        with self.hidden.capture() if self.hidden else contextlib.nullcontext():
            states, head = states_and_head(student, inputs, self.plain[id(student)])
            online = self._online(inputs)
        if self.divergence is None:
            total = hard = summed_loss(states, labels, head)
            soft = total.new_zeros(())
        else:
            stored = [Stored(*columns) for columns in extra.soft]
            total, hard, soft = summed_soft_loss(
                states, labels, head, online or stored, self.divergence, self.alpha, extra.weights,
                self.vocabulary,
            )  # fmt: skip
        hidden = total.new_zeros(())
        if self.hidden:
            hidden = self.hidden.loss(
                labels, inputs.get("attention_mask"), inputs.get("position_ids")
            )
            total = self.output * total + hidden
        parts = (hard, soft, hidden)
        return {"loss": total} | dict(zip(PARTS, (p.detach() for p in parts), strict=True))

    def _online(self, inputs: dict[str, Any]) -> list[Online]:
        """The teachers' states of the same tokens; their layers' are captured on the way."""
        online = []
        for teacher in self.teachers.values():
            moved = {key: value.to(teacher.device) for key, value in inputs.items()}
            with torch.no_grad():
                online.append(Online(*states_and_head(teacher, moved, self.plain[id(teacher)])))
        return online


def attach_loss(student: Any, objective: DistillationLoss) -> None:
    """Makes the student's forward call compute the objective where it is handed `extra`."""
    model = bare(student)
    plain = model.forward

    def forward(*args: Any, extra: LossInputs | None = None, **kwargs: Any) -> Any:
        if extra is None:
            return plain(*args, **kwargs)
        inputs = {
            key: kwargs[key]
            for key in ("input_ids", "attention_mask", "position_ids")
            if kwargs.get(key) is not None
        }
        return objective(model, inputs, extra)

    model.forward = forward


def detach_loss(student: Any) -> None:
    """Takes the objective off the student again."""
    bare(student).__dict__.pop("forward", None)
