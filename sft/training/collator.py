"""From groups of examples to the tensors of a forward pass, soft labels with them.

Three layouts. `padded`: a row an example. `padding_free` and `packed`: several examples in a row,
whose positions start again at 0; without an attention mask transformers then keeps each example to
itself, which `refuse_leaks` proves of the model at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sft.data.dataset import Examples
from sft.data.encoding import IGNORED, Encoded
from sft.data.sampler import BatchSampler
from sft.labels.store import LabelStore, tokens_hash
from synth.core.errors import UserError

if TYPE_CHECKING:
    import torch

_BATCH = ("soft", "weights", "tokens", "records")  # what is not for the student's forward pass


class BatchDataset:
    """The groups of a training as a data set, each ready as tensors.

    Args:
        examples: The training data.
        order: Its groups.
        layout: See the head of this module.
        pad: The padding token.
        labels: Stored soft labels, by name of the teacher.
        temperature: T at which they are wanted.
        weights: A row of weights a writer, by its name, or one row for all; None: no teachers.
        per_writer: Whether each trace takes the labels of its writer alone.
    """

    def __init__(
        self,
        examples: Examples,
        order: BatchSampler,
        layout: str,
        pad: int,
        labels: dict[str, LabelStore] | None = None,
        temperature: float = 1.0,
        weights: dict[str, list[float]] | list[float] | None = None,
        per_writer: bool = False,
    ) -> None:
        self.examples, self.order, self.layout, self.pad = examples, order, layout, pad
        self.labels, self.temperature = labels or {}, temperature
        self.weights, self.per_writer = weights, per_writer

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, number: int) -> dict[str, Any]:
        import torch

        group = self.order[number]
        members = [index for row in group for index in row]
        encoded = {index: self.examples[index] for index in members}
        batch: dict[str, Any] = collate(
            [[encoded[index] for index in row] for row in group], self.layout, self.pad
        )
        batch["tokens"] = sum(self.examples.lengths[index] for index in members)
        batch["records"] = [self.examples.ids[index] for index in members]
        if self.labels:
            batch["soft"] = self._soft(members, encoded)
        if self.weights is not None:
            batch["weights"] = torch.tensor(
                [
                    self._weights_of(index)
                    for index in members
                    for _ in range(_predicted(encoded[index]))
                ]
            )
        return batch

    def _weights_of(self, index: int) -> list[float]:
        if isinstance(self.weights, dict):
            return self.weights[self.examples.writers[index]]
        return self.weights or []

    def _soft(self, members: Sequence[int], encoded: dict[int, Encoded]) -> list[Any]:
        """Ids, logits and logsumexp of each teacher, a row a labelled token."""
        import numpy as np
        import torch

        if self.per_writer:
            columns = [[self._read(self.examples.writers[i], i, encoded[i]) for i in members]]
        else:
            columns = [[self._read(name, i, encoded[i]) for i in members] for name in self.labels]
        return [
            [torch.from_numpy(np.concatenate(part)) for part in zip(*of_one_teacher, strict=True)]
            for of_one_teacher in columns
        ]

    def _read(self, name: str, index: int, example: Encoded) -> tuple[Any, Any, Any]:
        import numpy as np

        store = self.labels[name]
        found = store.get(self.examples.ids[index], tokens_hash(example))
        place = store.temperatures.index(self.temperature)
        return (
            found.top_ids.astype(np.int64),
            found.top_logits.astype(np.float32),
            found.lse[:, place].astype(np.float32),
        )


def _predicted(example: Encoded) -> int:
    return sum(label != IGNORED for label in example.labels[1:])


def collate(rows: Sequence[Sequence[Encoded]], layout: str, pad: int) -> dict[str, torch.Tensor]:
    """input_ids and labels, (rows, length), with attention_mask or position_ids of that shape.

    The first token of an example carries no loss: the token before it is another example's. Each
    token of padding is at position 0, an example of its own.
    """
    import torch

    length = max(sum(len(example.input_ids) for example in row) for row in rows)
    shape = (len(rows), length)
    ids = torch.full(shape, pad, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    positions = torch.zeros(shape, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
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
    """What the student's forward pass takes, and the rest of a batch."""
    rest = {key: batch[key] for key in _BATCH if key in batch}
    return {key: value for key, value in batch.items() if key not in rest}, rest


def refuse_leaks(model: Any, who: str = "the student") -> None:
    """Raises UserError where examples that share a row see each other in this model.

    Two rows differ in their first example alone. What the model makes of the second one is the same
    in both, to the last digit, unless it sees the first.
    """
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            size = model.get_input_embeddings().weight.shape[0]
            tokens = torch.arange(1, 25, device=model.device) % size
            positions = torch.arange(24, device=model.device)[None] % 12
            seconds = [
                model.base_model(
                    input_ids=row[None], position_ids=positions, use_cache=False
                ).last_hidden_state[0, 12:]
                for row in (tokens, torch.cat([tokens[12:], tokens[12:]]))
            ]
            first, second = (states.float() for states in seconds)
            # Experts may take their tokens in another order, which rounds in another way.
            close = 1e-5 if model.dtype == torch.float32 else 1e-2
            leak = (first - second).abs().max() > close * second.abs().max()
    except (AttributeError, TypeError, RuntimeError, ValueError) as error:
        raise _leak(who, f"it cannot be tried ({type(error).__name__})") from error
    finally:
        model.train(training)
    if leak:
        raise _leak(who, "they do")


def _leak(who: str, how: str) -> UserError:
    return UserError(
        f"train.layout: in {who} examples in one row may see each other: {how}. Use layout: "
        "padded, or another student.attention"
    )
