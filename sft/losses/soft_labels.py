"""Hard and soft labels in one loss: alpha CE + (1 - alpha) T^2 D(teacher, student).

After Hinton, Vinyals and Dean 2015 (arXiv 1503.02531, section 2), with the cross-entropy at T = 1.
As in `sft.losses.cross_entropy`, logits are computed only where there is a loss, and in chunks; the
student's serve both terms, and an online teacher's are computed beside them. Both terms and their
gradient by the logits are computed at once, a few rows at a time, so that what lies between needs
little memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sft.losses.cross_entropy import CHUNK_BYTES
from sft.losses.divergences import (
    INFINITE,
    Divergence,
    TopK,
    at_least_float32,
    dense,
    divergence,
    mix_dense,
    mix_top_k,
    top_k,
)
from synth.core.errors import UserError

# Logits of a block: what a core's cache holds of them and of what is made of them, or what keeps a
# GPU busy for longer than it takes to tell it what to do.
_BLOCK_BYTES = {"cpu": 2**20}
_BLOCK_BYTES_GPU = 64 * 2**20

# The cost of a block of logits, of which the first row is given: total, hard part, soft part.
_BlockCost: TypeAlias = Callable[[Tensor, int], tuple[Any, Any, Any]]
# What the teachers say of a range of a chunk's rows.
_Reader: TypeAlias = Callable[[int, int], Tensor | TopK]


@dataclass(frozen=True, slots=True)
class Online:
    """A teacher in memory."""

    hidden: Tensor  # its last hidden states of the same tokens, (batch, length, its width)
    head: Callable[[Tensor], Tensor]  # from these to logits; on whatever device they are


@dataclass(frozen=True, slots=True)
class Stored:
    """A teacher's stored top-k, a row for each token that carries loss, in the batch's order."""

    ids: Tensor  # (tokens, k); -1 where not filled
    logits: Tensor  # (tokens, k), raw
    logsumexp: Tensor  # (tokens,), of all logits / T at the T of the loss


class SoftLoss(NamedTuple):
    """Sums over the tokens that carry loss, float32 or wider."""

    total: Tensor  # what is trained on, a scalar with gradients
    cross_entropy: Tensor  # the hard part before its weight, detached; 0 where alpha is 0
    divergence: Tensor  # the soft part with its T^2, detached likewise; 0 where alpha is 1


def summed_soft_loss(
    hidden: Tensor,
    labels: Tensor,
    head: Any,
    teachers: Sequence[Online | Stored],
    how: Divergence,
    alpha: float = 0.5,
    weights: Tensor | Sequence[float] | None = None,
    vocabulary: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> SoftLoss:
    """Sums hard and soft loss, alpha CE + (1 - alpha) T^2 D, over all labelled tokens.

    Args:
        hidden: The student's last hidden states, (batch, length, width).
        labels: The tokens, -100 where there is no loss, (batch, length). Position t of `hidden`
            predicts position t + 1 of these.
        head: The student's output layer, from hidden states to logits.
        teachers: All `Online` or all `Stored`. Not looked at where alpha is 1.
        how: Which divergence. Several teachers count as the weighted mean of their probabilities.
        alpha: Weight of the cross-entropy, 0 to 1.
        weights: Of the teachers, (teachers,), or for each labelled token in the batch's order,
            (tokens, teachers); any scale. None: all alike.
        vocabulary: How many logits the tokenizers of student and teachers share; those above are
            left out of the divergence. None: all.
        chunk_bytes: About how much memory all logits may take at a time.

    Raises:
        UserError: The teachers do not fit each other, the labels or the vocabulary, or a weight is
            out of its range.
    """
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha is {alpha}; expected a number from 0 to 1")
    targets = labels[:, 1:]
    where = targets != -100
    kept, wanted = hidden[:, :-1][where], targets[where]
    open_chunk: Callable[[int, int], _Reader] | None = None
    share = 1
    if alpha < 1:
        _check_teachers(teachers, len(kept), vocabulary or head.weight.shape[0])
        open_chunk = _reader(teachers, weights, where, how.temperature, vocabulary, hidden.device)
        # Each online teacher's logits lie beside the student's logits and their gradient.
        share = 1 + sum(isinstance(teacher, Online) for teacher in teachers) // 2

    def chunk_sums(states: Tensor, tokens: Tensor, start: int) -> Tensor:
        logits = at_least_float32(head(states))
        read = None
        if open_chunk is not None:
            with torch.no_grad():
                read = open_chunk(start, start + len(states))

        def cost(block: Tensor, first: int) -> tuple[Any, Any, Any]:
            end = first + len(block)
            hard = soft = block.new_zeros(())
            if read is not None:
                with torch.no_grad():
                    teacher = read(first, end)
                student = block[:, :vocabulary]
                if not isinstance(teacher, TopK):
                    _check_shapes(teacher, student)
                    if how.kind == "forward_kl":
                        joint: tuple[Any, Any, Any] = _HardAndForwardKL.apply(
                            block, tokens[first:end], teacher, alpha, how.temperature
                        )
                        return joint
                soft = divergence(teacher, student, how).sum().to(block.dtype)
            if alpha > 0:
                hard = functional.cross_entropy(block, tokens[first:end], reduction="sum")
            return alpha * hard + (1 - alpha) * soft, hard, soft

        # What a checkpoint computes first it forgets; the gradient is of use the second time.
        forgotten = start in unseen
        unseen.discard(start)
        return torch.stack(_Blocks.apply(logits, cost, forgotten))

    rows = max(1, chunk_bytes // (4 * share * head.weight.shape[0]))
    starts = range(0, len(kept), rows)
    unseen = set(starts) if len(starts) > 1 else set()
    if len(starts) <= 1:
        sums = chunk_sums(kept, wanted, 0)
    else:
        sums = torch.zeros(3, device=hidden.device)
        for start in starts:
            part = slice(start, start + rows)
            # The logits of a chunk are computed again on the way back, not kept for all chunks.
            sums = sums + checkpoint(
                chunk_sums, kept[part], wanted[part], start, use_reentrant=False
            )
    total, hard, soft = sums.unbind()
    return SoftLoss(total, hard.detach(), soft.detach())


class _Blocks(torch.autograd.Function):  # type: ignore[misc]
    """Sums what blocks of rows cost over all rows of logits; the first sum has a gradient.

    The gradient is computed on the way there, as at each block all that it needs is at hand. It is
    left out where it would be forgotten before it is used.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, cost: _BlockCost, forgotten: bool) -> tuple[Tensor, ...]:
        wanted = ctx.needs_input_grad[0] and not forgotten
        gradient = torch.empty_like(logits) if wanted else None
        sums = [logits.new_zeros(()) for _ in range(3)]
        size = _BLOCK_BYTES.get(logits.device.type, _BLOCK_BYTES_GPU)
        rows = max(1, size // (logits.element_size() * logits.shape[-1]))
        for start in range(0, len(logits), rows):
            block = logits[start : start + rows].detach()
            # A checkpoint around this has hooks on what is saved here, and would compute all of
            # its chunk again for every block; these take their place.
            plain = torch.autograd.graph.saved_tensors_hooks(_same, _same)
            with torch.set_grad_enabled(wanted), plain:
                costs = cost(block.requires_grad_(wanted), start)
                if gradient is not None:
                    (gradient[start : start + rows],) = torch.autograd.grad(costs[0], block)
            sums = [total + part.detach() for total, part in zip(sums, costs, strict=True)]
        # In place of a gradient that is not there, what a checkpoint takes for it.
        ctx.save_for_backward(logits.detach() if gradient is None else gradient)
        return tuple(sums)

    @staticmethod
    def backward(ctx: Any, outer: Tensor, *_: Tensor) -> tuple[Any, None, None]:
        return ctx.saved_tensors[0] * outer, None, None


def _same(saved: Tensor) -> Tensor:
    return saved


class _HardAndForwardKL(torch.autograd.Function):  # type: ignore[misc]
    """The usual loss of a teacher in memory, in about half the passes over its vocabulary.

    Of rows of logits z, their tokens y and a teacher's log p at T: alpha CE(y, q_1) +
    (1 - alpha) T^2 KL(p, q_T), whose gradient by z is alpha (q_1 - y) + (1 - alpha) T (q_T - p).
    It gives the sum, and its two parts without gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, log_p: Tensor, alpha: float, temperature: float
    ) -> tuple[Tensor, ...]:
        wanted, index = ctx.needs_input_grad[0], tokens.unsqueeze(-1)
        hard, gradient = logits.new_zeros(()), torch.empty(0)
        if alpha > 0:
            log_q = logits.log_softmax(-1)
            hard = -log_q.gather(-1, index).sum()
            if wanted:
                gradient = log_q.exp_()
                gradient.scatter_add_(-1, index, gradient.new_full(index.shape, -1)).mul_(alpha)
        elif wanted:
            gradient = torch.zeros_like(logits)
        # The lowest number in place of -inf: 0 times it is 0.
        lowest, shared = torch.finfo(logits.dtype).min, log_p.shape[-1]
        log_p = log_p.to(logits.dtype)
        log_q = logits[:, :shared].div(temperature).log_softmax(-1).clamp_(min=lowest)
        p = log_p.exp()
        kl = log_p.clamp(min=lowest).sub_(log_q).mul_(p).sum(-1)
        soft = torch.where(kl > INFINITE, torch.inf, kl).sum() * temperature**2
        if wanted:
            rest = log_q.exp_().sub_(p)
            gradient[:, :shared].add_(rest, alpha=(1 - alpha) * temperature)
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(hard, soft)
        return alpha * hard + (1 - alpha) * soft, hard, soft

    @staticmethod
    def backward(ctx: Any, outer: Tensor, *_: Tensor) -> tuple[Any, ...]:
        return ctx.saved_tensors[0] * outer, None, None, None, None


def _reader(
    teachers: Sequence[Online | Stored],
    weights: Tensor | Sequence[float] | None,
    where: Tensor,
    temperature: float,
    vocabulary: int | None,
    device: torch.device,
) -> Callable[[int, int], _Reader]:
    """From a chunk of the labelled tokens, to a range in it, to what the teachers say of that."""
    online = [teacher for teacher in teachers if isinstance(teacher, Online)]
    stored = [teacher for teacher in teachers if isinstance(teacher, Stored)]
    states = [teacher.hidden[:, :-1][where.to(teacher.hidden.device)] for teacher in online]
    shares = _shares(weights, len(teachers), where)

    def open_chunk(first: int, last: int) -> _Reader:
        chunks = [
            teacher.head(kept[first:last])[:, :vocabulary]
            for teacher, kept in zip(online, states, strict=True)
        ]

        def read(start: int, end: int) -> Tensor | TopK:
            rows = slice(first + start, first + end)
            share = shares[rows] if shares.dim() == 2 else shares
            if online:
                full = [dense(logits[start:end].to(device), temperature) for logits in chunks]
                return full[0] if len(full) == 1 else mix_dense(full, share)
            tops = []
            for each in stored:
                columns = (each.ids, each.logits, each.logsumexp)
                ids, logits, total = (column[rows].to(device) for column in columns)
                tops.append(top_k(ids, logits, total, temperature))
            return tops[0] if len(tops) == 1 else mix_top_k(tops, share)

        return read

    return open_chunk


def _shares(weights: Tensor | Sequence[float] | None, teachers: int, where: Tensor) -> Tensor:
    """Weights that sum to 1, (teachers,) or a row for each labelled token."""
    weights = [1.0] * teachers if weights is None else weights
    shares = torch.as_tensor(weights, dtype=torch.float32, device=where.device)
    tokens = int(where.sum())
    if shares.shape not in ((teachers,), (tokens, teachers)):
        raise UserError(
            f"weights of teachers: shape {tuple(shares.shape)}; expected ({teachers},), or "
            f"({tokens}, {teachers}) for each labelled token"
        )
    sums = shares.sum(-1, keepdim=True)
    if not bool((shares >= 0).all() & (sums > 0).all() & sums.isfinite().all()):
        raise UserError("weights of teachers: expected numbers of at least 0, not all of a token 0")
    return shares / sums


def _check_teachers(teachers: Sequence[Online | Stored], tokens: int, ids: int) -> None:
    """Raises UserError where teachers do not fit each other or the data."""
    if len({type(teacher) for teacher in teachers}) != 1:
        raise UserError(
            "soft labels: expected one teacher or more, all in memory or all with stored labels; "
            "to mix the two, store labels of the ones in memory first"
        )
    for teacher in teachers:
        if isinstance(teacher, Online):
            continue
        if len(teacher.ids) != tokens:
            raise UserError(
                f"soft labels: {len(teacher.ids)} rows for {tokens} tokens that carry loss; these "
                "labels belong to other data"
            )
        if bool((teacher.ids >= ids).any()):
            raise UserError(
                f"soft labels: the token id {int(teacher.ids.max())}, but student and teacher "
                f"share {ids} ids; these labels were made for another vocabulary"
            )


def _check_shapes(teacher: Tensor, student: Tensor) -> None:
    if teacher.shape != student.shape:
        raise UserError(
            f"soft labels: the teacher has {teacher.shape[-1]} logits and the student "
            f"{student.shape[-1]}; give the number of ids that their tokenizers share"
        )
