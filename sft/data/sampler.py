"""Which examples go through the student together, and in which order.

All epochs make up one sequence of groups, so that each depends on its index alone and a resumed run
meets the same ones. A group is what one forward pass takes: rows of examples.
"""

from __future__ import annotations

import bisect
import random
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import TypeAlias, TypeVar

from sft.data.dataset import Examples
from synth.config.train import Train
from synth.core.errors import UserError, nearest

T = TypeVar("T")
Group: TypeAlias = list[list[int]]  # rows, each the examples that lie in it
_POOL = 50  # batches among which examples are sorted by length
_PACK_POOL = 4096  # examples that are packed with each other
_OFTEN = 10_000  # more epochs, or visits of an example in one, are a slip of the pen


class BatchSampler:
    """The groups of a whole training, by index.

    Args:
        examples: The training data.
        config: batch_size, layout, mix, curriculum, fresh_samples, epochs or max_steps.
        seed: Of all that is drawn.
        parts: Groups that make up an optimizer step, over all processes.

    Raises:
        UserError: A source that is not there, a mix of nothing, an example longer than a packed
            row, or a curriculum by a figure that nobody took.
    """

    def __init__(self, examples: Examples, config: Train, seed: int, parts: int = 1) -> None:
        self.examples, self.config, self.seed = examples, config, seed
        self.row = config.pack_length or config.max_length or max(examples.lengths)
        self._choices = self._by_source()
        self._check()
        self._epoch = lru_cache(maxsize=2)(self._groups)
        self._ends: list[int] = []  # how many groups there are by the end of each epoch
        if config.max_steps is not None:
            self.total = config.max_steps * parts
            while not self._ends or self._ends[-1] < self.total:
                self._ends.append((self._ends or [0])[-1] + len(self._epoch(len(self._ends))))
        else:
            whole = int(config.epochs)
            sizes = [len(self._epoch(epoch)) for epoch in range(whole)]
            if rest := config.epochs - whole:
                last = len(self._epoch(whole))
                sizes.append(min(last, max(1, round(rest * last))))
            self._ends = list(accumulate(sizes))
            self.total = self._ends[-1]
            if not self.total:
                raise UserError(
                    f"train.epochs: {config.epochs:g} passes by train.mix meet no example; raise "
                    "one of the two"
                )

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> Group:
        epoch, position = self._position(index)
        return self._epoch(epoch)[position]

    def epochs(self, groups: int) -> float:
        """Returns the epochs that so many groups make up."""
        if groups == 0:
            return 0.0
        epoch, position = self._position(groups - 1)
        return epoch + (position + 1) / len(self._epoch(epoch))

    def _position(self, index: int) -> tuple[int, int]:
        """The epoch of a group, and its position in that."""
        if not 0 <= index < self.total:
            raise IndexError(index)
        epoch = bisect.bisect_right(self._ends, index)
        return epoch, index - (self._ends[epoch - 1] if epoch else 0)

    def _check(self) -> None:
        examples, config = self.examples, self.config
        mix, sources = config.mix or {}, set(examples.sources)
        if not config.epochs <= _OFTEN:
            raise UserError(f"train.epochs: {config.epochs:g}; expected at most {_OFTEN:,}")
        for source, weight in mix.items():
            if source not in sources:
                raise UserError(
                    f"train.mix: no example is from {source!r}{nearest(source, sources)}; the data "
                    f"has {', '.join(sorted(sources))}"
                )
            if not weight <= _OFTEN:
                raise UserError(f"train.mix.{source}: {weight:g}; expected at most {_OFTEN:,}")
        if sum(len(c) * mix.get(source, 1.0) for source, c in self._choices.items()) < 1:
            raise UserError(
                "train.mix: an epoch has less than one example, nothing is there to train on; "
                "raise the numbers"
            )
        if config.curriculum == "easy_first" and min(examples.pass_rates) < 0:
            raise UserError(
                "train.curriculum: easy_first goes by the share of a question's answers that were "
                "right; add the filter pass_rate (action: tag), or take another order"
            )
        if config.layout == "packed" and (longest := max(examples.lengths)) > self.row:
            raise UserError(
                f"train.pack_length: {self.row} tokens, but the longest example has {longest}; no "
                "example is cut, so raise it or filter out what is longer"
            )

    def _by_source(self) -> dict[str, list[list[int]]]:
        """What an epoch chooses from: examples or, with fresh_samples, the traces of a question."""
        choices: dict[tuple[str, str | int], list[int]] = defaultdict(list)
        for index, source in enumerate(self.examples.sources):
            fresh = self.config.fresh_samples
            choices[source, self.examples.questions[index] if fresh else index].append(index)
        sources: dict[str, list[list[int]]] = defaultdict(list)
        for (source, question), traces in choices.items():
            if len(traces) > 1:
                # Which is first is drawn, else the first epoch would be made of first samples.
                first = random.Random(f"{self.seed}/{question}").randrange(len(traces))
                traces = traces[first:] + traces[:first]
            sources[source].append(traces)
        return sources

    def _groups(self, epoch: int) -> list[Group]:
        rng = random.Random(f"{self.seed}/{epoch}")
        curriculum = self.config.curriculum
        size, lengths = self.config.batch_size, self.examples.lengths
        taken = self._taken(epoch)
        rng.shuffle(taken)
        if curriculum == "short_first":
            taken.sort(key=lengths.__getitem__)
        elif curriculum == "easy_first":
            taken.sort(key=lambda index: -self.examples.pass_rates[index])
        if self.config.layout == "packed":
            if curriculum == "none":
                rows = pack(taken, lengths, self.row)
                rng.shuffle(rows)
            else:
                rows = pack_in_order(taken, lengths, self.row)
            return _cut(rows, size)
        if curriculum == "none":
            batches = grouped(taken, lengths, size, rng)
            if epoch == 0 and batches:  # memory that does not suffice shows at once
                costs = [len(batch) * max(lengths[i] for i in batch) for batch in batches]
                batches.insert(0, batches.pop(costs.index(max(costs))))
        else:
            batches = _cut(taken, size)
        if self.config.layout == "padding_free":
            return [[batch] for batch in batches]
        return [[[index] for index in batch] for batch in batches]

    def _taken(self, epoch: int) -> list[int]:
        """The examples of an epoch, those that are met twice twice."""
        if not self.config.mix and not self.config.fresh_samples:
            return list(range(len(self.examples)))
        taken: list[int] = []
        for source, choices in self._choices.items():
            # One walk round the shuffled choices: each epoch goes on where the one before ended,
            # and a question's next trace is taken when the walk comes by again.
            walk = list(choices)
            random.Random(f"{self.seed}/{source}").shuffle(walk)
            weight = (self.config.mix or {}).get(source, 1.0)
            start, end = (round(e * weight * len(walk)) for e in (epoch, epoch + 1))
            for step in range(start, end):
                traces = walk[step % len(walk)]
                taken.append(traces[step // len(walk) % len(traces)])
        return taken


def _cut(items: list[T], size: int) -> list[list[T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def grouped(
    order: list[int], lengths: Sequence[int], batch: int, rng: random.Random
) -> list[list[int]]:
    """Cuts shuffled examples into batches of like length each, in random order.

    One that is not full comes last.
    """
    batches = []
    for pool in _cut(order, batch * _POOL):
        batches += _cut(sorted(pool, key=lengths.__getitem__, reverse=True), batch)
    last = [batches.pop()] if batches and len(batches[-1]) < batch else []
    rng.shuffle(batches)
    return batches + last


def pack(order: list[int], lengths: Sequence[int], size: int) -> list[list[int]]:
    """Packs examples into rows of `size` tokens by best fit, longest first, a pool at a time.

    >>> pack([0, 1, 2, 3], [6, 5, 4, 3], 10)
    [[0, 2], [1, 3]]
    """
    rows: list[list[int]] = []
    for pool in _cut(order, _PACK_POOL):
        room: list[tuple[int, int]] = []  # what is left in a row, and which it is; sorted
        for index in sorted(pool, key=lengths.__getitem__, reverse=True):
            fit = bisect.bisect_left(room, (lengths[index], -1))
            if fit < len(room):
                left, row = room.pop(fit)
                rows[row].append(index)
            else:
                left, row = size, len(rows)
                rows.append([index])
            bisect.insort(room, (left - lengths[index], row))
    return rows


def pack_in_order(order: Sequence[int], lengths: Sequence[int], size: int) -> list[list[int]]:
    """Packs examples into rows of `size` tokens, one after the other."""
    rows: list[list[int]] = []
    left = -1
    for index in order:
        if lengths[index] > left:
            rows.append([])
            left = size
        rows[-1].append(index)
        left -= lengths[index]
    return rows
