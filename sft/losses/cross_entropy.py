"""Cross-entropy that computes logits only where there is a loss.

With a vocabulary of 49,152, projecting every prompt and padding token is a third of the work of
training a small model. On a GPU, TRL's own kernel leaves those out; elsewhere it projects them all
and computes entropies besides, so there this takes its place. The loss is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Logits of one chunk, so that long traces do not need gigabytes at once.
_CHUNK_BYTES = 256 * 2**20


def summed_loss(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    head: Any,
    chunk_bytes: int = _CHUNK_BYTES,
) -> torch.Tensor:
    """Sum of the negative log-likelihoods of all labelled tokens.

    Args:
        hidden: Last hidden states, (batch, length, width).
        labels: The tokens, -100 where there is no loss, (batch, length). Position t of `hidden`
            predicts position t + 1 of these.
        head: The output layer, from hidden states to logits.
        chunk_bytes: About how much memory the logits may take at a time.

    Returns:
        A scalar in float32; 0 where nothing is labelled.
    """
    import torch
    from torch.nn import functional
    from torch.utils.checkpoint import checkpoint

    targets = labels[:, 1:]
    where = targets != -100
    kept, wanted = hidden[:, :-1][where], targets[where]

    def one(states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(head(states).float(), tokens, reduction="sum")

    rows = max(1, chunk_bytes // (4 * head.weight.shape[0]))
    if len(kept) <= rows:
        return one(kept, wanted)
    # Logits of a chunk are computed again on the way back instead of being kept for all chunks.
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for states, tokens in zip(kept.split(rows), wanted.split(rows), strict=True):
        total = total + checkpoint(one, states, tokens, use_reentrant=False)
    return total


def has_plain_head(model: Any) -> bool:
    """Whether a model's logits are its output layer applied to its last hidden states, no more.

    Some families scale or cap their logits; this finds out by trying a few tokens.
    """
    import torch

    training = model.training
    model.eval()
    hook = None
    try:
        head = model.get_output_embeddings()
        # A cap shows in large logits alone, and a model with random weights has none.
        hook = head.register_forward_hook(lambda module, args, logits: logits * 1e3)
        with torch.no_grad():
            tokens = torch.arange(1, 9, device=model.device).unsqueeze(0)
            hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
            logits = model(input_ids=tokens, use_cache=False).logits
            mine = head(hidden)
            near = 1e-3 * mine.abs().max().item()
            return mine.shape == logits.shape and bool(
                torch.allclose(mine.float(), logits.float(), rtol=1e-3, atol=near)
            )
    except (AttributeError, TypeError, RuntimeError):
        return False  # a model of another build; the trainer's own loss knows how
    finally:
        if hook is not None:
            hook.remove()
        model.train(training)
