"""From groups of examples to the tensors of a forward pass, soft labels with them.

Three layouts. `padded`: a row an example. `padding_free` and `packed`: several examples in a row,
whose positions start again at 0; without an attention mask transformers then keeps each example to
itself, which `check_isolation` proves of the model at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sft.data.dataset import Examples
from sft.data.encoding import IGNORED, Encoded
from sft.data.sampler import BatchSampler
from sft.labels.store import tokens_hash
from sft.training.teachers import Teachers
from synth.core.errors import UserError

_BATCH = ("soft", "weights", "tokens", "records")  # what is not for the student's forward pass


@dataclass(frozen=True, eq=False)
class BatchDataset:
    """The batches of a training as a data set, each ready as tensors."""

    examples: Examples
    order: BatchSampler  # which of them go together, batch by batch
    layout: str  # see the head of this module
    pad: int  # the padding token
    teachers: Teachers = field(default_factory=Teachers)  # with the soft labels that they left
    temperature: float = 1.0  # T at which soft labels are wanted

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, number: int) -> dict[str, Any]:
        rows = self.order[number]
        members = [index for row in rows for index in row]
        encoded = {index: self.examples[index] for index in members}
        batch: dict[str, Any] = collate(
            [[encoded[index] for index in row] for row in rows], self.layout, self.pad
        )
        batch["tokens"] = sum(self.examples.lengths[index] for index in members)
        batch["records"] = [self.examples.ids[index] for index in members]
        if self.teachers.labels:
            batch["soft"] = self._soft(members, encoded)
        weights = self.teachers.weights
        if weights is not None:
            batch["weights"] = torch.tensor(
                [
                    weights[self.examples.writers[index]] if isinstance(weights, dict) else weights
                    for index in members
                    for label in encoded[index].labels[1:]
                    if label != IGNORED
                ]
            )
        return batch

    def _soft(self, members: Sequence[int], encoded: dict[int, Encoded]) -> list[Any]:
        """Returns ids, logits and logsumexp of each teacher, a row a labelled token."""
        writers = self.examples.writers
        if self.teachers.per_writer:
            columns = [[self._read(writers[i], i, encoded[i]) for i in members]]
        else:
            columns = [
                [self._read(name, i, encoded[i]) for i in members] for name in self.teachers.labels
            ]
        return [
            [torch.from_numpy(np.concatenate(part)) for part in zip(*of_one_teacher, strict=True)]
            for of_one_teacher in columns
        ]

    def _read(self, name: str, index: int, example: Encoded) -> tuple[Any, Any, Any]:
        store = self.teachers.labels[name]
        labels = store.get(self.examples.ids[index], tokens_hash(example))
        column = store.temperatures.index(self.temperature)
        return (
            labels.top_ids.astype(np.int64),
            labels.top_logits.astype(np.float32),
            labels.lse[:, column].astype(np.float32),
        )


def collate(rows: Sequence[Sequence[Encoded]], layout: str, pad: int) -> dict[str, torch.Tensor]:
    """Returns input_ids and labels, (rows, length), with attention_mask or position_ids likewise.

    The first token of an example carries no loss: the token before it is another example's. Each
    token of padding is at position 0, an example of its own.
    """
    length = max(sum(len(example.input_ids) for example in row) for row in rows)
    shape = (len(rows), length)
    ids = torch.full(shape, pad, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    positions, mask = torch.zeros(2, *shape, dtype=torch.long)
    for number, row in enumerate(rows):
        at = 0
        for example in row:
            end = at + len(example.input_ids)
            ids[number, at:end] = torch.tensor(example.input_ids)
            labels[number, at + 1 : end] = torch.tensor(example.labels[1:], dtype=torch.long)
            positions[number, at:end] = torch.arange(end - at)
            mask[number, at:end] = 1
            at = end
    if layout == "padded":
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


def split_inputs(batch: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what the student's forward pass takes, and the rest of a batch."""
    rest = {key: batch[key] for key in _BATCH if key in batch}
    return {key: value for key, value in batch.items() if key not in rest}, rest


def check_isolation(model: Any, who: str = "the student") -> None:
    """Raises UserError where examples that share a row see each other in this model.

    Two rows differ in their first example alone. What the model makes of the second one is the same
    in both, to the last digit, unless it sees the first.
    """
    problem, training = "", model.training
    model.eval()
    try:
        with torch.no_grad():
            size = model.get_input_embeddings().weight.shape[0]
            tokens = torch.arange(1, 25, device=model.device) % size
            positions = torch.arange(24, device=model.device)[None] % 12
            first, second = (
                model.base_model(input_ids=row[None], position_ids=positions, use_cache=False)
                .last_hidden_state[0, 12:]
                .float()
                for row in (tokens, torch.cat([tokens[12:], tokens[12:]]))
            )
            # Experts may take their tokens in another order, which rounds in another way.
            close = 1e-5 if model.dtype == torch.float32 else 1e-2
            if (first - second).abs().max() > close * second.abs().max():
                problem = "they do"
    except (AttributeError, TypeError, RuntimeError, ValueError) as error:
        problem = f"it cannot be tried ({type(error).__name__})"
    finally:
        model.train(training)
    if problem:
        raise UserError(
            f"train.layout: in {who} examples in one row may see each other: {problem}. Use "
            "layout: padded, or another student.attention"
        )
