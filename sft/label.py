"""Soft labels of finished traces: a white-box teacher reads each once, and what it thinks is kept.

Position t of the logits predicts token t + 1, so the labels of a completion come from the
positions before its tokens. Logits are computed at those positions alone, a chunk at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.label_codec import SoftLabels
from sft.label_store import (
    SHARD_TOKENS,
    begin,
    content_of,
    finish,
    shard_path,
    tokens_hash,
    write_shard,
)
from sft.loss import has_plain_head
from sft.masks import IGNORED
from synth.errors import UserError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from sft.masks import Encoded

# Logits of one chunk in float32.
_CHUNK_BYTES = 64 * 2**20
_CACHED_ROWS, _BLOCK = 8, 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is stored of the teacher's distributions.

    Attributes:
        k: How many of the likeliest tokens.
        temperatures: At which of them logsumexp(z / T) is stored.
        vocabulary: How many logits count; the rows above it are padding. None: all.
        batch_tokens: Most tokens of a batch, padding included. A longer trace goes alone.
    """

    k: int = 64
    temperatures: tuple[float, ...] = (1.0, 2.0, 4.0)
    vocabulary: int | None = None
    batch_tokens: int = 8192


@dataclass(frozen=True, slots=True)
class Estimate:
    """What labelling will come to, from a few examples that were labelled.

    Attributes:
        examples: How many there are.
        tokens: Tokens that the teacher reads.
        labelled: Those of them that carry loss.
        bytes: On the disk.
        seconds: For the whole data on this machine.
    """

    examples: int
    tokens: int
    labelled: int
    bytes: int
    seconds: float


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Examples of like length together, longest first, so that too little memory shows at once.

    Args:
        lengths: Tokens of each example.
        batch_tokens: Most tokens of a batch with its padding.

    >>> batches([3, 9, 4, 8], 18)
    [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    made: list[list[int]] = []
    for index in order:
        if made and lengths[made[-1][0]] * (len(made[-1]) + 1) <= batch_tokens:
            made[-1].append(index)
        else:
            made.append([index])
    return made


class Reader:
    """A teacher that reads batches of examples.

    Args:
        model: A causal language model in evaluation mode.
        wanted: What is kept.
        chunk_bytes: About how much memory the logits of a chunk may take.

    Raises:
        UserError: `wanted` does not fit the model.
    """

    def __init__(self, model: Any, wanted: Wanted, chunk_bytes: int = _CHUNK_BYTES) -> None:
        self.model, self.wanted, self.chunk_bytes = model, wanted, chunk_bytes
        self.plain_head = has_plain_head(model)
        rows = int(model.get_output_embeddings().weight.shape[0])
        self.vocabulary = wanted.vocabulary or rows
        if self.vocabulary > rows:
            raise UserError(
                f"label: a vocabulary of {self.vocabulary}, but the teacher has {rows} logits"
            )
        if not 1 <= wanted.k <= self.vocabulary:
            raise UserError(f"label: k is {wanted.k}; expected 1 to {self.vocabulary}")
        if not wanted.temperatures or min(wanted.temperatures) <= 0:
            raise UserError("label: temperatures: expected one or more above 0")

    def states(self, examples: Sequence[Encoded]) -> torch.Tensor:
        """What the logits of all labelled tokens are made from, example after example.

        Last hidden states where the head is a plain layer over them, else the logits themselves.
        """
        import torch

        device = self.model.device
        width = max(len(e.input_ids) for e in examples)
        ids = torch.zeros((len(examples), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        where = torch.zeros((len(examples), width), dtype=torch.bool)
        for row, example in enumerate(examples):
            n = len(example.input_ids)
            ids[row, :n] = torch.tensor(example.input_ids)
            mask[row, :n] = 1
            # The token at t + 1 is what position t predicts.
            where[row, : n - 1] = torch.tensor(example.labels[1:]) != IGNORED
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        if self.plain_head:
            out = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        else:
            out = self.model(**inputs, use_cache=False).logits
        kept: torch.Tensor = out[where.to(device)]
        return kept

    def read(
        self, examples: Sequence[Encoded], ids: Sequence[str] | None = None
    ) -> list[SoftLabels]:
        """The soft labels of a batch; `ids` are for the message alone.

        Raises:
            UserError: A logit is not a number.
        """
        import numpy as np
        import torch

        with torch.inference_mode():
            states = self.states(examples)
            rows = max(1, self.chunk_bytes // (4 * self.vocabulary))
            parts = [self._kept(chunk) for chunk in states.split(rows)]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        ends = np.cumsum([_labelled(example) for example in examples])[:-1]
        split = zip(*(np.split(column, ends) for column in columns), strict=True)
        made = [SoftLabels(*column) for column in split]
        for place, labels in enumerate(made):
            if not (np.isfinite(labels.lse).all() and np.isfinite(labels.top_logits).all()):
                raise UserError(
                    f"label: the teacher's logits are nan or infinite (record "
                    f"{ids[place] if ids else place!r}); try another dtype"
                )
        return made

    def _kept(self, states: torch.Tensor) -> tuple[NDArray[Any], ...]:
        """Top-k ids, their logits, and logsumexp at each temperature, of some positions."""
        import torch

        head = self.model.get_output_embeddings()
        logits = (head(states) if self.plain_head else states)[:, : self.vocabulary]
        # On a CPU a few rows at a time stay in its cache through all that is done with them.
        rows = _CACHED_ROWS if logits.device.type == "cpu" else len(logits)
        columns: list[list[torch.Tensor]] = [[], [], []]
        for part in logits.split(max(1, rows)):
            part = part.float()
            top, ids = _topk(part, self.wanted.k)
            for column, value in zip(
                columns,
                (ids.int(), top, _lse(part, top[:, :1], self.wanted.temperatures)),
                strict=True,
            ):
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
    top, place = inside.topk(k)
    return top, best.gather(1, place // _BLOCK) * _BLOCK + place % _BLOCK


def _lse(logits: torch.Tensor, top: torch.Tensor, temperatures: Sequence[float]) -> torch.Tensor:
    """logsumexp(z / T) at each temperature, (rows, T); `top` is the largest of each row.

    From a temperature to half of it, exponentials are squared in place of being made anew.
    """
    import torch

    found: dict[float, torch.Tensor] = {}
    before, powers = 0.0, logits
    for t in sorted(set(temperatures), reverse=True):
        powers = powers.square_() if before == 2 * t else ((logits - top) / t).exp_()
        found[t] = top[:, 0] / t + powers.sum(1).log()
        before = t
    return torch.stack([found[t] for t in temperatures], 1)


def label(
    model: Any,
    ids: Sequence[str],
    examples: Sequence[Encoded],
    folder: Path,
    identity: str,
    wanted: Wanted | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> None:
    """Writes the label set of a data set; what a killed run wrote whole is not made again.

    Args:
        model: The teacher, in evaluation mode, in the dtype and on the device where it is to run.
        ids: The records' ids.
        examples: Their tokens as the student is trained on them; anything that can be indexed.
        folder: Where the label set goes.
        identity: Names the teacher's weights (`synth.models.weights_identity`).
        wanted: What is kept.
        on_progress: Gets labelled tokens done and in all, after each batch.
        shard_tokens: About how many labelled tokens a shard has.

    Raises:
        UserError: Ids are not unique, an example has no labelled token, a logit is not a number,
            or the folder holds labels of other data or another teacher.
    """
    wanted = wanted or Wanted()
    reader = Reader(model, wanted)
    lengths, labelled, hashes = _survey(ids, examples)
    plan = {
        "teacher": identity,
        "dtype": str(model.dtype).removeprefix("torch."),
        "k": wanted.k,
        "temperatures": list(wanted.temperatures),
        "vocabulary": reader.vocabulary,
        "batch_tokens": wanted.batch_tokens,
        "shard_tokens": shard_tokens,
        "data": content_of(zip(ids, hashes, strict=True)),
    }
    if begin(folder, plan):
        return
    done, total, number = 0, sum(labelled), -1
    for number, shard in enumerate(
        _shards(batches(lengths, wanted.batch_tokens), labelled, shard_tokens)
    ):
        there = shard_path(folder, number).exists()
        records: list[tuple[str, str, SoftLabels]] = []
        for batch in shard:
            if not there:
                made = reader.read([examples[i] for i in batch], [ids[i] for i in batch])
                records += ((ids[i], hashes[i], made[at]) for at, i in enumerate(batch))
            done += sum(labelled[i] for i in batch)
            if on_progress:
                on_progress(done, total)
        if not there:
            write_shard(folder, number, records, wanted.temperatures)
    finish(folder, number + 1)


def estimate(
    model: Any, examples: Sequence[Encoded], wanted: Wanted | None = None, samples: int = 8
) -> Estimate:
    """What labelling a data set will come to, by labelling a few examples of all lengths.

    Their kinds of positions are too few to code them well, so the bytes are rather too many.

    Raises:
        UserError: As `label`.
    """
    import tempfile

    wanted = wanted or Wanted()
    reader = Reader(model, wanted)
    lengths, labelled, _ = _survey([str(i) for i in range(len(examples))], examples)
    order = sorted(range(len(examples)), key=lengths.__getitem__)
    some = [order[(2 * i + 1) * len(order) // (2 * samples)] for i in range(samples)]
    some = sorted(set(some))
    reader.read([examples[some[0]]])  # what is done once only is not counted
    seconds = 0.0
    records = []
    for batch in batches([lengths[i] for i in some], wanted.batch_tokens):
        began = time.perf_counter()
        made = reader.read([examples[some[i]] for i in batch])
        seconds += time.perf_counter() - began
        records += [("", "", labels) for labels in made]
    with tempfile.TemporaryDirectory() as folder:
        write_shard(Path(folder), 0, records, wanted.temperatures)
        size = shard_path(Path(folder), 0).stat().st_size
    read = sum(lengths[i] for i in some)
    return Estimate(
        len(examples),
        sum(lengths),
        sum(labelled),
        round(size * sum(labelled) / sum(labelled[i] for i in some)),
        seconds * sum(lengths) / read,
    )


def _survey(
    ids: Sequence[str], examples: Sequence[Encoded]
) -> tuple[list[int], list[int], list[str]]:
    """Tokens, labelled tokens and hash of each example."""
    lengths, labelled, hashes = [], [], []
    if len(set(ids)) != len(ids) or len(ids) != len(examples) or not ids:
        raise UserError("label: expected one or more records, each with an id of its own")
    for id, example in zip(ids, examples, strict=True):
        count = _labelled(example)
        if not count:
            raise UserError(f"label: record {id!r} has no token with loss")
        lengths.append(len(example.input_ids))
        labelled.append(count)
        hashes.append(tokens_hash(example))
    return lengths, labelled, hashes


def _labelled(example: Encoded) -> int:
    """Tokens with loss; the first token has nothing before it that could predict it."""
    return sum(label != IGNORED for label in example.labels[1:])


def _shards(
    made: list[list[int]], labelled: Sequence[int], shard_tokens: int
) -> Iterator[list[list[int]]]:
    """Batches in groups of about so many labelled tokens."""
    group: list[list[int]] = []
    held = 0
    for batch in made:
        group.append(batch)
        held += sum(labelled[i] for i in batch)
        if held >= shard_tokens:
            yield group
            group, held = [], 0
    if group:
        yield group
