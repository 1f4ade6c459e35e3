"""How far a student's next-token distribution is from its teacher's, token by token.

The teacher comes as log-probabilities at the temperature T of the loss: of the whole vocabulary,
or of its likeliest tokens (`TopK`). The student comes as logits. Formulas, what T^2 does and what
each treatment of the tail biases: docs/losses.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from synth.core.errors import UserError, nearest

Kind = Literal["forward_kl", "reverse_kl", "jsd", "skewed_kl", "skewed_reverse_kl", "tvd"]
Tail = Literal["bucket", "renormalise", "both"]

# No finite divergence comes near this: above it, one side has no mass where the other has some.
INFINITE = 1e20


@dataclass(frozen=True, slots=True)
class Divergence:
    """Which divergence, and at which settings.

    Attributes:
        kind: `forward_kl` KL(p, q) of teacher p and student q; `reverse_kl` KL(q, p); `jsd`
            beta KL(p, m) + (1 - beta) KL(q, m), m = beta p + (1 - beta) q (Agarwal et al. 2023,
            arXiv 2306.13649, section 2); `skewed_kl` KL(p, skew p + (1 - skew) q) and
            `skewed_reverse_kl` KL(q, (1 - skew) p + skew q) (Ko et al. 2024, arXiv 2402.03898,
            section 3.1); `tvd`, half the sum of |p - q|.
        temperature: T of both softmaxes. All but `tvd` are times T^2, so that gradients stay of
            one size (Hinton et al. 2015, arXiv 1503.02531, section 2); the gradient of `tvd` falls
            with 1/T alone, and T^2 would over-weight it.
        beta: Weight of the teacher's side in `jsd`.
        skew: How much of the first distribution goes into the second in the skewed ones.
        tail: What a teacher's top-k leaves out: `bucket` makes it one outcome more;
            `renormalise` takes it for nothing; `both` looks at the student's top-k share alone.

    Raises:
        UserError: A setting out of its range, or a tail under which the divergence is infinite.
    """

    kind: Kind = "forward_kl"
    temperature: float = 1.0
    beta: float = 0.5
    skew: float = 0.1
    tail: Tail = "bucket"

    def __post_init__(self) -> None:
        if self.kind not in DIVERGENCES:
            raise UserError(
                f"divergence {self.kind!r} is not known{nearest(self.kind, DIVERGENCES)}"
            )
        if self.tail not in get_args(Tail):
            raise UserError(
                f"tail {self.tail!r} is not known{nearest(self.tail, get_args(Tail))} (without any "
                "treatment the sum ends at k, which is no divergence)"
            )
        if not 0 < self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}; expected a number above 0")
        if not 0 < self.beta < 1:
            raise UserError(
                f"beta is {self.beta}; expected a number between 0 and 1. At the ends jsd is 0; "
                "its limits, divided by beta and by 1 - beta, are forward_kl and reverse_kl"
            )
        if not 0 <= self.skew < 1:
            raise UserError(f"skew is {self.skew}; expected a number from 0 to below 1")
        infinite = self.kind == "reverse_kl" or (
            self.kind == "skewed_reverse_kl" and self.skew == 0
        )
        if infinite and self.tail == "renormalise":
            raise UserError(
                f"tail: renormalise says that the teacher never leaves its top-k, where "
                f"{self.kind} is infinite; use bucket, or a skewed_reverse_kl with a skew above 0"
            )


@dataclass(frozen=True, slots=True)
class TopK:
    """A teacher's likeliest tokens, over the whole vocabulary at the temperature of the loss.

    Whatever stands beside an id of -1 is ignored.
    """

    ids: Tensor  # (..., k), each at most once, in any order; -1 where not filled
    log_probs: Tensor  # (..., k)
    log_rest: Tensor  # (...), of the probability of all other tokens together


def top_k(ids: Tensor, logits: Tensor, logsumexp: Tensor, temperature: float) -> TopK:
    """Makes the teacher of stored labels: raw logits (..., k) and the logsumexp of all logits / T.

    The rest is 1 minus the sum, at least the epsilon of the type of `logsumexp` (2^-23 for
    float32), for less cannot be told from nothing.
    """
    wide = _k_wide(logits)
    log_probs = wide / temperature - logsumexp.to(wide.dtype).unsqueeze(-1)
    log_probs = torch.where(ids >= 0, log_probs, -torch.inf)
    largest_sum = 1 - torch.finfo(logsumexp.dtype).eps
    return TopK(ids, log_probs, (-log_probs.exp().sum(-1).clamp(max=largest_sum)).log1p())


def dense(logits: Tensor, temperature: float) -> Tensor:
    """Makes the teacher of all logits: log-probabilities at T, in float32 or wider."""
    return at_least_float32(logits).div(temperature).log_softmax(-1)


def divergence(teacher: Tensor | TopK, student: Tensor, how: Divergence) -> Tensor:
    """Computes the divergence of each token's distributions.

    Args:
        teacher: Log-probabilities at the temperature of the loss: (..., vocabulary), or a TopK.
        student: Logits, (..., vocabulary).
        how: Which divergence.

    Returns:
        (...), in nats (`tvd`: 0 to 1) and times T^2 but for `tvd`; float32 or wider. A -inf on one
        side alone may make it infinite, one on both sides is left out.
    """
    student = at_least_float32(student)
    if how.temperature != 1:
        student = student / how.temperature
    if isinstance(teacher, TopK):
        log_p, log_q = _outcomes(teacher, student, how.tail)
    else:
        log_p, log_q = teacher, student.log_softmax(-1)
    # The lowest number in place of -inf: 0 times it is 0, and gradients stay numbers.
    log_p = log_p.clamp(min=torch.finfo(log_p.dtype).min)
    log_q = log_q.clamp(min=torch.finfo(log_q.dtype).min)
    value = DIVERGENCES[how.kind](log_p, log_q, how)
    value = torch.where(value > INFINITE, torch.inf, value)
    return value if how.kind == "tvd" else value * how.temperature**2


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _jsd(log_p: Tensor, log_q: Tensor, how: Divergence) -> Tensor:
    middle = _mean(log_p, log_q, how.beta)
    return how.beta * _kl(log_p, middle) + (1 - how.beta) * _kl(log_q, middle)


def _skewed_kl(log_p: Tensor, log_q: Tensor, how: Divergence) -> Tensor:
    return _kl(log_p, _mean(log_p, log_q, how.skew) if how.skew > 0 else log_q)


def _mean(log_p: Tensor, log_q: Tensor, weight: float) -> Tensor:
    """The logarithm of weight p + (1 - weight) q."""
    return torch.logaddexp(log_p + math.log(weight), log_q + math.log1p(-weight))


# Each takes the log-probabilities of teacher and student at T, (..., outcomes), with no -inf, and
# the settings; it returns the divergence of each token, (...), not times T^2. A new one also needs
# its word in `Kind` and in `SoftLabels.divergence` of synth/config/distillation.py, its formula in
# docs/losses.md, and its reference in tests/sft/losses/test_divergences.py.
DIVERGENCES: dict[str, Callable[[Tensor, Tensor, Divergence], Tensor]] = {
    "forward_kl": lambda log_p, log_q, how: _kl(log_p, log_q),
    "reverse_kl": lambda log_p, log_q, how: _kl(log_q, log_p),
    "jsd": _jsd,
    "skewed_kl": _skewed_kl,
    "skewed_reverse_kl": lambda log_p, log_q, how: _skewed_kl(log_q, log_p, how),
    "tvd": lambda log_p, log_q, how: (log_p.exp() - log_q.exp()).abs().sum(-1) / 2,
}


def _outcomes(teacher: TopK, student: Tensor, tail: Tail) -> tuple[Tensor, Tensor]:
    """Log-probabilities of both over the teacher's k tokens and, but for `both`, the rest.

    The student comes as logits divided by T.
    """
    filled = teacher.ids >= 0
    # An unfilled place points to one that is filled, if any is; there its mass is taken off once.
    spare = teacher.ids.amax(-1, keepdim=True)
    index = torch.where(filled, teacher.ids, spare).clamp(min=0).long()
    inside = torch.where(filled, _k_wide(student.gather(-1, index)), -torch.inf)
    log_p = torch.where(filled, teacher.log_probs, -torch.inf).to(inside.dtype)
    if tail == "both":
        return _normalised(log_p), _normalised(inside)
    # The student's tail is summed over its logits: 1 minus the rest would lose its digits.
    # (Of a token without labels all is tail, for both, whatever the sum.)
    left = student.scatter(-1, index, -torch.inf)
    outside = left.logsumexp(-1, keepdim=True).to(inside.dtype)
    log_q = _normalised(torch.cat([inside, outside], -1))
    if tail == "renormalise":
        missing = torch.where(spare < 0, 0.0, torch.full_like(outside, -torch.inf))
        return torch.cat([_normalised(log_p), missing], -1), log_q
    # Where no token is left outside, what the teacher's sum lacks to 1 is rounding.
    rest = teacher.log_rest.unsqueeze(-1).to(inside.dtype)
    missing = torch.where(outside == -torch.inf, outside, rest)
    return torch.cat([log_p, missing], -1), log_q


def _normalised(log: Tensor) -> Tensor:
    """log_softmax that leaves rows of nothing but -inf as they are."""
    empty = (log == -torch.inf).all(-1, keepdim=True)
    return torch.where(empty, -torch.inf, torch.where(empty, 0.0, log).log_softmax(-1))


def mix_dense(teachers: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Takes the weighted mean of several teachers' probabilities, as logarithms, (..., vocabulary).

    Weights are (..., teachers) or (teachers,), summing to 1.
    """
    mixed = teachers[0] + weights[..., :1].log().to(teachers[0].dtype)
    for index, log_probs in enumerate(teachers[1:], 1):
        weight = weights[..., index : index + 1].log().to(log_probs.dtype)
        mixed = torch.logaddexp(mixed, log_probs + weight)
    return mixed


def mix_top_k(teachers: Sequence[TopK], weights: Tensor) -> TopK:
    """Takes the weighted mean of several teachers' probabilities over the union of their top-k.

    What a teacher says of a token outside its own top-k is not known; it stays in the tail. So a
    token of the union gets too little by at most the weighted tails of those that lack it, and the
    tail too much by as much. k may differ; the result has as many places as all have together.
    """
    ids = torch.cat([teacher.ids for teacher in teachers], -1)
    parts = [_k_wide(t.log_probs).exp() * weights[..., i : i + 1] for i, t in enumerate(teachers)]
    probs = torch.where(ids >= 0, torch.cat(parts, -1), 0.0)
    ids, order = ids.sort(-1)
    probs = probs.gather(-1, order)
    starts = torch.ones_like(ids, dtype=torch.bool)
    starts[..., 1:] = ids[..., 1:] != ids[..., :-1]
    slot = starts.cumsum(-1) - 1
    merged = torch.zeros_like(probs).scatter_add(-1, slot, probs)
    # All entries of a slot have one id, so it does not matter which is written last.
    union = torch.full_like(ids, -1).scatter(-1, slot, ids)
    union = torch.where(merged > 0, union, -1)
    rests = torch.stack([_k_wide(teacher.log_rest).exp() for teacher in teachers], -1)
    rest = (rests * weights.to(rests.dtype)).sum(-1)
    return TopK(union, torch.where(union >= 0, merged.log(), -torch.inf), rest.log())


def at_least_float32(values: Tensor) -> Tensor:
    """Widens values to float32; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()


def _k_wide(values: Tensor) -> Tensor:
    """A few values a token in float64, which costs nothing beside the vocabulary."""
    # Apple's GPUs have no float64.
    return values.float() if values.device.type == "mps" else values.double()
