"""What a batch costs the student: hard labels, soft labels, its teachers' layers, or a mix.

It is computed inside the student's own forward call, so that whatever wraps the student (data
parallelism, sharded weights, autocast) is around all of it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sft.losses.cross_entropy import has_plain_head, summed_loss
from sft.losses.divergences import Divergence
from sft.losses.hidden_states import HiddenStateLoss
from sft.losses.soft_labels import Online, Stored, summed_soft_loss
from sft.models.layers import bare
from synth.config.distillation import SoftLabels
from synth.config.train import Train

if TYPE_CHECKING:
    import torch

# What is logged beside the loss, each a sum over labelled tokens.
PARTS = ("cross_entropy", "divergence", "hidden_states")


@dataclass(slots=True)
class LossInputs:
    """What a loss needs beside the student's inputs; an object, so that no wrapper casts it.

    Attributes:
        labels: (rows, length).
        soft: Ids, logits and logsumexp of each teacher's stored labels.
        weights: Of the teachers, (labelled tokens, teachers), or None.
    """

    labels: torch.Tensor
    soft: list[list[torch.Tensor]] = field(default_factory=list)
    weights: torch.Tensor | None = None


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
        self.soft = config.soft_labels
        if self.soft is None and config.method == "soft_labels":
            self.soft = SoftLabels()
        self.how = divergence_of(self.soft) if self.soft else None

    def __call__(self, student: Any, inputs: dict[str, Any], extra: LossInputs) -> dict[str, Any]:
        """Sums over the labelled tokens: `loss` with gradients, and `PARTS`, detached."""
        labels = extra.labels
        captured = self.hidden.capture() if self.hidden else contextlib.nullcontext()
        with captured:
            states, head = self._last(student, inputs)
            online = self._online(inputs)
        total, hard, soft = self._output(states, labels, head, online, extra)
        zero = total.detach().new_zeros(())
        hidden = zero
        if self.hidden:
            hidden = self.hidden.loss(
                labels, inputs.get("attention_mask"), inputs.get("position_ids")
            )
            total = self.output * total + hidden
        parts = {"cross_entropy": hard, "divergence": soft, "hidden_states": hidden}
        return {"loss": total, **{key: value.detach() for key, value in parts.items()}}

    def _output(
        self, states: Any, labels: Any, head: Any, online: list[Online], extra: LossInputs
    ) -> tuple[Any, Any, Any]:
        if self.soft is None or self.how is None:
            total = summed_loss(states, labels, head)
            return total, total, total.new_zeros(())
        found = summed_soft_loss(
            states,
            labels,
            head,
            online or [Stored(*columns) for columns in extra.soft],
            self.how,
            self.soft.alpha,
            extra.weights,
            self.vocabulary,
        )
        return found.total, found.cross_entropy, found.divergence

    def _last(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """Last hidden states and what makes logits of them."""
        if self.plain[id(model)]:
            hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
            return hidden, model.get_output_embeddings()
        return plain_logits(model, inputs)

    def _online(self, inputs: dict[str, Any]) -> list[Online]:
        """The teachers' states of the same tokens; what Hidden wants is captured on the way."""
        import torch

        made = []
        for teacher in self.teachers.values():
            device = teacher.device
            moved = {key: value.to(device) for key, value in inputs.items()}
            with torch.no_grad():
                made.append(Online(*self._last(teacher, moved)))
        return made


def plain_logits(model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
    """The logits themselves, and a head that gives them back, for models that scale or cap them."""
    import torch

    class AsItIs(torch.nn.Module):  # type: ignore[misc]
        """Gives what it gets."""

        weight = model.get_output_embeddings().weight

        def forward(self, logits: torch.Tensor) -> torch.Tensor:
            return logits

    # Without `extra`, the student's forward is its own.
    return model(**inputs, use_cache=False).logits, AsItIs()


def divergence_of(soft: SoftLabels) -> Divergence:
    """The section `train.soft_labels` as a divergence."""
    return Divergence(soft.divergence, soft.temperature, soft.beta, soft.skew, soft.tail)


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
