"""Soft labels of finished traces: a white-box teacher reads each once, and what it thinks is kept.

Whatever the teacher reads with (`transformers`, `vllm`), the order of the work is the same and
depends on the data alone, so that a killed run goes on where it was.
"""

from __future__ import annotations

import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from sft.data.dataset import Examples
from sft.data.encoding import IGNORED, Encoded
from sft.labels.codec import TeacherTopK
from sft.labels.store import (
    SHARD_TOKENS,
    begin,
    content_of,
    finish,
    shard_path,
    tokens_hash,
    write_shard,
)
from synth.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is stored of the teacher's distributions."""

    k: int = 64  # how many of the likeliest tokens
    temperatures: tuple[float, ...] = (1.0, 2.0, 4.0)  # at which logsumexp(z / T) is stored
    vocabulary: int | None = None  # how many logits count, None: all; rows above it are padding
    batch_tokens: int = 8192  # at most, with padding; a longer trace goes alone


@dataclass(frozen=True, slots=True)
class Estimate:
    """What labelling will come to, from a few examples that were labelled."""

    examples: int
    tokens: int  # that the teacher reads
    labelled: int  # those of them that carry loss
    bytes: int  # on the disk
    seconds: float  # for the whole data on this machine


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Puts examples of like length together, at most so many tokens with padding.

    The longest come first, so that too little memory shows at once.

    >>> batches([3, 9, 4, 8], 18)
    [[1, 3], [2, 0]]
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= batch_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


class Engine(Protocol):
    """What a teacher reads examples with."""

    name: str  # as `label.engine` names it
    wanted: Wanted
    vocabulary: int  # how many logits count
    dtype: str  # of the teacher's weights

    def read(
        self, examples: Sequence[Encoded], ids: Sequence[str] | None = None
    ) -> list[TeacherTopK]:
        """The soft labels of a batch; `ids` are for messages alone."""

    def close(self) -> None:
        """Gives the teacher's memory back."""


def check_wanted(wanted: Wanted, logits: int) -> int:
    """Returns how many of a teacher's logits count.

    Raises:
        UserError: No teacher with so many logits can give what is wanted.
    """
    vocabulary = wanted.vocabulary or logits
    if vocabulary > logits:
        raise UserError(f"label: a vocabulary of {vocabulary}, but the teacher has {logits} logits")
    if not 1 <= wanted.k <= vocabulary:
        raise UserError(f"label: k is {wanted.k}; expected 1 to {vocabulary}")
    if not wanted.temperatures or min(wanted.temperatures) <= 0:
        raise UserError("label: temperatures: expected one or more above 0")
    return vocabulary


def check_finite(batch: Sequence[TeacherTopK], ids: Sequence[str] | None) -> None:
    """Raises UserError where a logit is not a number, with the record's id."""
    for index, labels in enumerate(batch):
        if not (np.isfinite(labels.lse).all() and np.isfinite(labels.top_logits).all()):
            raise UserError(
                f"label: the teacher's logits are nan or infinite (record "
                f"{ids[index] if ids else index!r}); try another dtype"
            )


def label(
    engine: Engine,
    examples: Examples,
    folder: Path,
    identity: str,
    only: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> None:
    """Writes the label set of a data set; what a killed run wrote whole is not made again.

    Args:
        engine: The teacher.
        examples: The data as the student is trained on it.
        folder: Where the label set goes.
        identity: Names the teacher's weights (`synth.core.models.weights_identity`).
        only: Which of the examples; None: all.
        on_progress: Gets labelled tokens done and in all: once for what a run before wrote, then
            after each batch.
        shard_tokens: About how many labelled tokens a shard has.

    Raises:
        UserError: Ids are not unique, an example has no labelled token, a logit is not a number,
            or the folder holds labels of other data or another teacher.
    """
    chosen = range(len(examples)) if only is None else only
    wanted = engine.wanted
    plan = {
        "engine": engine.name,
        "teacher": identity,
        "dtype": engine.dtype,
        "k": wanted.k,
        "temperatures": list(wanted.temperatures),
        "vocabulary": engine.vocabulary,
        "shard_tokens": shard_tokens,
        "data": _content(examples, chosen),
    }
    if begin(folder, plan):
        return
    order = array("q", sorted(chosen, key=lambda i: -examples.lengths[i]))
    total, done, number = sum(examples.labelled[i] for i in chosen), 0, 0
    for number, shard in enumerate(_shards(order, examples.labelled, shard_tokens)):
        if shard_path(folder, number).exists():
            done += sum(examples.labelled[i] for i in shard)
            continue
        if on_progress:
            on_progress(done, total)
        records: list[tuple[str, str, TeacherTopK]] = []
        for batch in batches([examples.lengths[i] for i in shard], wanted.batch_tokens):
            read = [examples[shard[at]] for at in batch]
            ids = [examples.ids[shard[at]] for at in batch]
            labels = engine.read(read, ids)
            records += zip(ids, map(tokens_hash, read), labels, strict=True)
            done += sum(map(len, labels))
            if on_progress:
                on_progress(done, total)
        write_shard(folder, number, records, wanted.temperatures)
    finish(folder, number + 1)


def estimate(
    engine: Engine, examples: Examples, only: Sequence[int] | None = None, samples: int = 8
) -> Estimate:
    """Estimates what labelling a data set comes to, by labelling a few examples of all lengths.

    Their kinds of positions are too few to code them well, so the bytes are rather too many.

    Raises:
        UserError: As `label`.
    """
    chosen = range(len(examples)) if only is None else only
    wanted, lengths = engine.wanted, examples.lengths
    order = sorted(chosen, key=lengths.__getitem__)
    positions = {(2 * i + 1) * len(order) // (2 * samples) for i in range(samples)}
    sample = [order[position] for position in sorted(positions)]
    engine.read([examples[sample[0]]])  # what is done once only is not counted
    seconds = 0.0
    records = []
    for batch in batches([lengths[i] for i in sample], wanted.batch_tokens):
        began = time.perf_counter()
        read = engine.read([examples[sample[at]] for at in batch])
        seconds += time.perf_counter() - began
        records += [("", "", labels) for labels in read]
    with tempfile.TemporaryDirectory() as folder:
        write_shard(Path(folder), 0, records, wanted.temperatures)
        size = shard_path(Path(folder), 0).stat().st_size
    tokens = sum(lengths[i] for i in chosen)
    labelled = sum(examples.labelled[i] for i in chosen)
    return Estimate(
        len(chosen),
        tokens,
        labelled,
        round(size * labelled / sum(len(labels) for _, _, labels in records)),
        seconds * tokens / sum(lengths[i] for i in sample),
    )


def _content(examples: Examples, chosen: Sequence[int]) -> str:
    """Names the data by ids and tokens.

    Raises:
        UserError: There is none, an id comes twice, or an example has no token with loss.
    """
    ids = [examples.ids[i] for i in chosen]
    if len(set(ids)) != len(ids) or not ids:
        raise UserError("label: expected one or more records, each with an id of its own")

    def hashes() -> Iterator[tuple[str, str]]:
        for i in chosen:
            example = examples[i]
            if not labelled_tokens(example):
                raise UserError(f"label: record {examples.ids[i]!r} has no token with loss")
            yield examples.ids[i], tokens_hash(example)

    return content_of(hashes())


def labelled_tokens(example: Encoded) -> int:
    """Counts the tokens with loss; nothing before the first token could predict it."""
    return sum(label != IGNORED for label in example.labels[1:])


def _shards(
    order: Sequence[int], labelled: Sequence[int], shard_tokens: int
) -> Iterator[Sequence[int]]:
    """Stretches of the order with about so many labelled tokens each."""
    start = held = 0
    for end, index in enumerate(order, 1):
        held += labelled[index]
        if held >= shard_tokens or end == len(order):
            yield order[start:end]
            start, held = end, 0
