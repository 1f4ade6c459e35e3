"""Which examples go through the student together, and in which order.

All epochs make up one sequence of groups, so that each depends on its place alone and a resumed run
meets the same ones. A group is what one forward pass takes: rows of examples.
"""

from __future__ import annotations

import bisect
import random
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import TypeAlias

from sft.data.dataset import Examples
from synth.config.train import Train
from synth.core.errors import UserError, nearest

Group: TypeAlias = list[list[int]]  # rows, each the examples that lie in it
_POOL = 50  # batches among which examples are sorted by length
_PACK_POOL = 4096  # examples that are packed with each other
_OFTEN = 10_000  # more epochs, or visits of an example in one, are a slip of the pen


class BatchSampler:
    """The groups of a whole training, by number.

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
        self._refuse()
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

    def __getitem__(self, number: int) -> Group:
        epoch, place = self._place(number)
        return self._epoch(epoch)[place]

    def epochs(self, groups: int) -> float:
        """Epochs that so many groups make up."""
        if groups == 0:
            return 0.0
        epoch, place = self._place(groups - 1)
        return epoch + (place + 1) / len(self._epoch(epoch))

    def _place(self, number: int) -> tuple[int, int]:
        if not 0 <= number < self.total:
            raise IndexError(number)
        epoch = bisect.bisect_right(self._ends, number)
        return epoch, number - (self._ends[epoch - 1] if epoch else 0)

    def _refuse(self) -> None:
        examples, config = self.examples, self.config
        if not config.epochs <= _OFTEN:
            raise UserError(f"train.epochs: {config.epochs:g}; expected at most {_OFTEN:,}")
        known = set(examples.sources)
        for source, often in (config.mix or {}).items():
            if source not in known:
                raise UserError(
                    f"train.mix: no example is from {source!r}{nearest(source, known)}; the data "
                    f"has {', '.join(sorted(known))}"
                )
            if not often <= _OFTEN:
                raise UserError(f"train.mix.{source}: {often:g}; expected at most {_OFTEN:,}")
        met = sum(len(c) * (config.mix or {}).get(s, 1.0) for s, c in self._choices.items())
        if met < 1:
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
        together: dict[tuple[str, str | int], list[int]] = defaultdict(list)
        for index, source in enumerate(self.examples.sources):
            fresh = self.config.fresh_samples
            together[source, self.examples.questions[index] if fresh else index].append(index)
        sources: dict[str, list[list[int]]] = defaultdict(list)
        for (source, question), traces in together.items():
            if len(traces) > 1:
                # Which is first is drawn, else the first epoch would be made of first samples.
                first = random.Random(f"{self.seed}/{question}").randrange(len(traces))
                traces = traces[first:] + traces[:first]
            sources[source].append(traces)
        return sources

    def _groups(self, epoch: int) -> list[Group]:
        chance = random.Random(f"{self.seed}/{epoch}")
        taken = self._taken(epoch)
        chance.shuffle(taken)
        if self.config.curriculum == "short_first":
            taken.sort(key=self.examples.lengths.__getitem__)
        elif self.config.curriculum == "easy_first":
            taken.sort(key=lambda index: -self.examples.pass_rates[index])
        size, lengths = self.config.batch_size, self.examples.lengths
        if self.config.layout == "packed":
            if self.config.curriculum == "none":
                rows = pack(taken, lengths, self.row)
                chance.shuffle(rows)
            else:
                rows = pack_in_order(taken, lengths, self.row)
            return [rows[i : i + size] for i in range(0, len(rows), size)]
        if self.config.curriculum == "none":
            batches = grouped(taken, lengths, size, chance)
            if epoch == 0 and batches:  # memory that does not suffice shows at once
                longest = max(range(len(batches)), key=lambda i: _cost(batches[i], lengths))
                batches.insert(0, batches.pop(longest))
        else:
            batches = [taken[i : i + size] for i in range(0, len(taken), size)]
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


def grouped(
    order: Sequence[int], lengths: Sequence[int], batch: int, chance: random.Random
) -> list[list[int]]:
    """Batches in random order, with examples of like length in each.

    Args:
        order: Examples, shuffled.
        lengths: Tokens of each example.
        batch: Examples of a batch; one that is not full comes last.
        chance: Shuffles the batches.
    """
    batches = []
    for start in range(0, len(order), batch * _POOL):
        pool = sorted(order[start : start + batch * _POOL], key=lengths.__getitem__, reverse=True)
        batches += [pool[i : i + batch] for i in range(0, len(pool), batch)]
    last = [batches.pop()] if batches and len(batches[-1]) < batch else []
    chance.shuffle(batches)
    return batches + last


def _cost(batch: Sequence[int], lengths: Sequence[int]) -> int:
    return len(batch) * max(lengths[index] for index in batch)


def pack(order: Sequence[int], lengths: Sequence[int], row: int) -> list[list[int]]:
    """Examples in rows of at most so many tokens, by best fit, longest first, a pool at a time.

    >>> pack([0, 1, 2, 3], [6, 5, 4, 3], 10)
    [[0, 2], [1, 3]]
    """
    rows: list[list[int]] = []
    for start in range(0, len(order), _PACK_POOL):
        pool = sorted(order[start : start + _PACK_POOL], key=lengths.__getitem__, reverse=True)
        room: list[tuple[int, int]] = []  # what is left in a row, and which it is; sorted
        for index in pool:
            place = bisect.bisect_left(room, (lengths[index], -1))
            if place < len(room):
                left, number = room.pop(place)
                rows[number].append(index)
            else:
                left, number = row, len(rows)
                rows.append([index])
            bisect.insort(room, (left - lengths[index], number))
    return rows


def pack_in_order(order: Sequence[int], lengths: Sequence[int], row: int) -> list[list[int]]:
    """Examples in rows of at most so many tokens, one after the other."""
    rows: list[list[int]] = []
    left = -1
    for index in order:
        if lengths[index] > left:
            rows.append([])
            left = row
        rows[-1].append(index)
        left -= lengths[index]
    return rows
