"""A teacher that reads by transformers: exact top-k and logsumexp at every temperature.

Position t of the logits predicts token t + 1, so the labels of a completion come from the
positions before its tokens. Logits are computed at those positions alone, a chunk at a time.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sft.data.encoding import IGNORED, Encoded
from sft.labels.codec import TeacherTopK
from sft.labels.labeler import Wanted, check_finite, check_wanted, labelled_tokens
from sft.losses.cross_entropy import has_plain_head, states_and_head
from synth.core.errors import UserError

# Logits of one chunk in float32.
_CHUNK_BYTES = 64 * 2**20
_CACHED_ROWS, _BLOCK = 8, 64


class Reader:
    """A causal language model in evaluation mode that reads batches of examples.

    The logits of a chunk take about `chunk_bytes` of memory.

    Raises:
        UserError: `wanted` does not fit the model.
    """

    name = "transformers"

    def __init__(self, model: Any, wanted: Wanted, chunk_bytes: int = _CHUNK_BYTES) -> None:
        self.model, self.wanted, self.chunk_bytes = model, wanted, chunk_bytes
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.plain_head = has_plain_head(model)
        rows = int(model.get_output_embeddings().weight.shape[0])
        self.vocabulary = check_wanted(wanted, rows)

    def close(self) -> None:
        """Gives the teacher's memory back."""
        self.model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def states(self, examples: Sequence[Encoded]) -> torch.Tensor:
        """Computes what the logits of all labelled tokens are made from, example after example.

        Last hidden states where the head is a plain layer over them, else the logits themselves.
        """
        device = self.model.device
        width = max(len(e.input_ids) for e in examples)
        ids = torch.zeros((len(examples), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        where = torch.zeros_like(ids, dtype=torch.bool)
        for row, example in enumerate(examples):
            n = len(example.input_ids)
            ids[row, :n] = torch.tensor(example.input_ids)
            mask[row, :n] = 1
            # The token at t + 1 is what position t predicts.
            where[row, : n - 1] = torch.tensor(example.labels[1:]) != IGNORED
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        states, _ = states_and_head(self.model, inputs, self.plain_head)
        kept: torch.Tensor = states[where.to(device)]
        return kept

    def read(
        self, examples: Sequence[Encoded], ids: Sequence[str] | None = None
    ) -> list[TeacherTopK]:
        """Reads the soft labels of a batch; `ids` are for messages alone.

        Raises:
            UserError: A logit is not a number, or memory does not suffice.
        """
        rows = max(1, self.chunk_bytes // (4 * self.vocabulary))
        try:
            with torch.inference_mode():
                parts = [self._kept(chunk) for chunk in self.states(examples).split(rows)]
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            known = isinstance(error, torch.OutOfMemoryError | MemoryError)
            if not known and "can't allocate memory" not in str(error):
                raise
            longest = max(len(example.input_ids) for example in examples)
            raise UserError(
                f"label: memory does not suffice for {len(examples)} traces of up to {longest} "
                "tokens; lower label.batch_tokens, filter long traces out, or load the teacher in "
                "16 bits or less"
            ) from error
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        ends = np.cumsum([labelled_tokens(example) for example in examples])[:-1]
        split = zip(*(np.split(column, ends) for column in columns), strict=True)
        labels = [TeacherTopK(*parts_of_one) for parts_of_one in split]
        check_finite(labels, ids)
        return labels

    def _kept(self, states: torch.Tensor) -> tuple[NDArray[Any], ...]:
        """Top-k ids, their logits, and logsumexp at each temperature, of some positions."""
        head = self.model.get_output_embeddings()
        logits = (head(states) if self.plain_head else states)[:, : self.vocabulary]
        # On a CPU a few rows at a time stay in its cache through all that is done with them.
        rows = _CACHED_ROWS if logits.device.type == "cpu" else len(logits)
        columns: list[list[torch.Tensor]] = [[], [], []]
        for part in logits.split(max(1, rows)):
            part = part.float()
            top, ids = _topk(part, self.wanted.k)
            lse = _lse(part, top[:, :1], self.wanted.temperatures)
            for column, value in zip(columns, (ids.int(), top, lse), strict=True):
                column.append(value)
        return tuple(torch.cat(column).cpu().numpy() for column in columns)


def _topk(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`logits.topk(k)`, searched in the k blocks whose largest are largest: no other can hold one.

    Several times as fast over a large vocabulary.
    """
    rows, size = logits.shape
    if size % _BLOCK or size < 2 * k * _BLOCK:
        top, ids = logits.topk(k)
        return top, ids
    blocks = logits.view(rows, -1, _BLOCK)
    best = blocks.amax(-1).topk(k).indices
    inside = blocks.gather(1, best[:, :, None].expand(-1, -1, _BLOCK)).flatten(1)
    top, index = inside.topk(k)
    return top, best.gather(1, index // _BLOCK) * _BLOCK + index % _BLOCK


def _lse(logits: torch.Tensor, top: torch.Tensor, temperatures: Sequence[float]) -> torch.Tensor:
    """logsumexp(z / T) at each temperature, (rows, T); `top` is the largest of each row.

    From a temperature to half of it, exponentials are squared in place of being made anew.
    """
    lse: dict[float, torch.Tensor] = {}
    before, powers = 0.0, logits
    for t in sorted(set(temperatures), reverse=True):
        powers = powers.square_() if before == 2 * t else ((logits - top) / t).exp_()
        lse[t] = top[:, 0] / t + powers.sum(1).log()
        before = t
    return torch.stack([lse[t] for t in temperatures], 1)
