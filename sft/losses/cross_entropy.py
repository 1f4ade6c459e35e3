"""Cross-entropy that computes logits only where there is a loss.

With a vocabulary of 49,152, projecting every prompt and padding token is a third of the work of
training a small model. On a GPU, TRL's own kernel leaves those out; elsewhere it projects them all
and computes entropies besides, so there this takes its place. The loss is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# Logits of one chunk, so that long traces do not need gigabytes at once.
CHUNK_BYTES = 256 * 2**20


def summed_loss(
    hidden: Tensor, labels: Tensor, head: Any, chunk_bytes: int = CHUNK_BYTES
) -> Tensor:
    """Sums the negative log-likelihoods of all labelled tokens, a scalar in float32.

    Args:
        hidden: Last hidden states, (batch, length, width).
        labels: The tokens, -100 where there is no loss, (batch, length). Position t of `hidden`
            predicts position t + 1 of these.
        head: The output layer, from hidden states to logits.
        chunk_bytes: About how much memory the logits may take at a time.
    """
    targets = labels[:, 1:]
    where = targets != -100
    kept, wanted = hidden[:, :-1][where], targets[where]

    def chunk_loss(states: Tensor, tokens: Tensor) -> Tensor:
        return functional.cross_entropy(head(states).float(), tokens, reduction="sum")

    rows = max(1, chunk_bytes // (4 * head.weight.shape[0]))
    if len(kept) <= rows:
        return chunk_loss(kept, wanted)
    # Logits of a chunk are computed again on the way back instead of being kept for all chunks.
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for states, tokens in zip(kept.split(rows), wanted.split(rows), strict=True):
        total = total + checkpoint(chunk_loss, states, tokens, use_reentrant=False)
    return total


def has_plain_head(model: Any) -> bool:
    """Tries whether a model's logits are its output layer applied to its last hidden states.

    Some families scale or cap their logits.
    """
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
            plain = head(hidden)
            atol = 1e-3 * plain.abs().max().item()
            return plain.shape == logits.shape and bool(
                torch.allclose(plain.float(), logits.float(), rtol=1e-3, atol=atol)
            )
    except (AttributeError, TypeError, RuntimeError):
        return False  # a model of another build; the trainer's own loss knows how
    finally:
        if hook is not None:
            hook.remove()
        model.train(training)


def states_and_head(model: Any, inputs: dict[str, Any], plain_head: bool) -> tuple[Any, Any]:
    """Runs a model: its last hidden states and what makes logits of them.

    Without a plain head: the logits themselves, and a head that gives them back.
    """
    if plain_head:
        states = model.base_model(**inputs, use_cache=False).last_hidden_state
        return states, model.get_output_embeddings()
    # A student's forward is its own where it is not handed `extra`.
    logits = model(**inputs, use_cache=False).logits
    head = torch.nn.Identity()
    head.weight = model.get_output_embeddings().weight
    return logits, head
