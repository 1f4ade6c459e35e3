"""Decontamination index: finds the evaluation questions that stand in a text by runs of words.

The rule is the coverage that Llama 3 (arXiv 2407.21783, section 5.1.4) and Tülu 3 (arXiv
2411.15124, section 3.2) use in place of one common run: the share of an evaluation question's
words that stand in shared runs. Here runs are short, so that an edit costs no more than its
neighbourhood, and in exchange words weigh by their rarity, numbers have to agree, and in a long
text all has to stand near together.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from filters._decontamination.eval_sets import EvalSet, Item, listed, read_set
from filters.base import Context, Figures, FilterConfig
from synth.core.errors import UserError
from synth.core.text.question_text import normalise_question

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Keys = NDArray[np.uint64]

RUN = 3  # words; `bench/accuracy/decontamination.py` has what it gives
# Below this nothing is looked for: no bound lies there, and candidates would be many.
FLOOR = 0.5
# A question of fewer words stands in others by chance: `17 + 23`. It is found where it is all.
SHORTEST = 5
# Texts of a trace: an evaluation question of fewer words stands there by chance as well.
SHORTEST_IN_TRACE = 8
# Of all the places where a text's runs stand in evaluation questions, so many are looked at,
# those of the rarest runs first; and so many questions are compared in full.
_PLACES, _CANDIDATES = 20_000, 16
_SHOWN = 200
_DRAWING, _DRAWING_END = re.compile(r"\[asy\]", re.I), re.compile(r"\[/asy\]", re.I)


class OverlapConfig(FilterConfig):
    """Options of the filters that keep evaluation questions out."""

    sets: list[EvalSet] = Field(
        default_factory=list,
        description="Evaluation sets to keep out, besides the run's own evaluation questions",
    )
    overlap_max: float = Field(
        0.7, ge=FLOOR, le=1, description="Share of an evaluation question that may be there"
    )


class Hit(NamedTuple):
    """The evaluation question that a text has most of.

    The overlap, from FLOOR to 1, is the share of the question's words that the text has in runs of
    RUN words near together, each word weighing by its rarity in the evaluation sets; or the same
    share of its numbers and operators alone, where that is less.
    """

    overlap: float
    item: Item
    how: str  # in what way
    shared: str  # the longest run that both have, normalised


class Index:
    """Evaluation questions, ready to be looked for. Of those that say the same the first is named.

    Read-only once made, which takes about 200 bytes a word.

    Attributes:
        size: How many different questions it holds.
        empty: Items without a word, which it does not hold.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        import numpy as np

        self._same: dict[bytes, int] = {}
        self._bags: dict[bytes, int] = {}
        self._items: list[Item] = []
        self.empty: list[Item] = []
        words: list[list[str]] = []
        for item in items:
            tokens = tokens_of(item.question)
            key = _key(tokens)
            if not tokens:
                self.empty.append(item)
            elif key not in self._same:
                self._same[key] = len(words)
                self._bags.setdefault(_key(sorted(tokens)), len(words))
                self._items.append(item)
                words.append(tokens)
        self.size = len(words)
        self._lengths = np.array([len(tokens) for tokens in words], dtype=np.int64)
        spread = Counter(token for tokens in words for token in set(tokens))
        self._vocabulary = numbers = {token: number for number, token in enumerate(spread, 1)}
        self._names = ["", *spread]
        frequency = np.array([1, *spread.values()], dtype=np.float64)
        # Inverse document frequency, smoothed so that what stands in every question (the wording
        # of a template) weighs next to nothing, and in a single question all words weigh alike.
        weights = np.log((self.size + 1) / frequency)
        self._figure = [bool(name) and not name[0].isalpha() for name in self._names]
        self._codes = np.array([numbers[t] for tokens in words for t in tokens], dtype=np.int64)
        self._starts = np.concatenate(([0], np.cumsum(self._lengths)))
        self._token_weights = weights[self._codes]
        self._build_runs()

    def _build_runs(self) -> None:
        """Sort the runs of all questions, each with the questions that it stands in."""
        import numpy as np

        keys = _runs(self._codes)
        owner = np.repeat(np.arange(self.size), self._lengths)[: len(keys)]
        last = np.repeat(self._starts[1:], self._lengths)[: len(keys)]
        whole = np.arange(len(keys)) + RUN <= last  # a run ends where its question does
        self._runs, of_run = np.unique(keys[whole], return_inverse=True)
        self._run_at = np.full(len(self._codes), -1, dtype=np.int64)
        self._run_at[np.flatnonzero(whole)] = of_run
        # Each run may add at most the weight of its words to a question's coverage.
        weights = self._token_weights
        sums = np.add.reduceat(weights, self._starts[:-1]) if self.size else np.zeros(0)
        self._totals = np.maximum(sums, 1e-9)
        run_weights = np.zeros(len(keys))
        for step in range(RUN):
            run_weights += weights[step : step + len(keys)]
        order = np.argsort(of_run, kind="stable")
        self._owner = owner[whole][order].astype(np.int32)
        self._share = (run_weights[whole] / self._totals[owner[whole]])[order].astype(np.float32)
        self._places = np.concatenate(([0], np.cumsum(np.bincount(of_run))))

    def shorter_than(self, words: int) -> list[Item]:
        """Return the questions of fewer words."""
        lengths = self._lengths.tolist()
        return [item for item, n in zip(self._items, lengths, strict=True) if n < words]

    def same(self, tokens: Sequence[str], reordered: bool = True) -> Hit | None:
        """Return the evaluation question of these words, in this order or another; else None."""
        if (question := self._same.get(_key(tokens))) is not None:
            return Hit(1.0, self._items[question], "the same question", " ".join(tokens))
        if reordered and (question := self._bags.get(_key(sorted(tokens)))) is not None:
            return Hit(1.0, self._items[question], "the same words in another order", "")
        return None

    def within(self, tokens: Sequence[str], shortest: int = SHORTEST) -> Hit | None:
        """Return the evaluation question of which most stands in a text; None below FLOOR.

        Questions of fewer than `shortest` words are not looked for.
        """
        import numpy as np

        codes = np.array([self._vocabulary.get(t, 0) for t in tokens], dtype=np.int64)
        if len(codes) < RUN or not len(self._runs):
            return None
        keys = _runs(codes)
        positions = np.minimum(np.searchsorted(self._runs, keys), len(self._runs) - 1)
        # The text's runs by their number, -1 for a run that no question has.
        numbers = np.where(self._runs[positions] == keys, positions, -1)
        text_runs = numbers.tolist()
        best: Hit | None = None
        for question in self._candidates(np.unique(numbers[numbers >= 0])):
            if self._lengths[question] < shortest:
                continue
            overlap, shared = self._compare(question, text_runs)
            if overlap >= FLOOR and (best is None or overlap > best.overlap):
                best = Hit(overlap, self._items[question], "shared words", shared)
        return best

    def _candidates(self, runs: Ints) -> list[int]:
        """Return the questions of which a text's runs may cover enough, the likeliest first."""
        import numpy as np

        counts = self._places[runs + 1] - self._places[runs]
        if counts.sum() > _PLACES:
            rarest = np.argsort(counts, kind="stable")
            rarest = rarest[: max(1, int(np.searchsorted(np.cumsum(counts[rarest]), _PLACES)))]
            runs, counts = runs[rarest], counts[rarest]
        ends = np.cumsum(counts)
        shift = np.repeat(self._places[runs] - (ends - counts), counts)
        places = np.arange(ends[-1] if len(ends) else 0) + shift
        owners, inverse = np.unique(self._owner[places], return_inverse=True)
        bound = np.bincount(inverse, weights=self._share[places], minlength=len(owners))
        likely = np.flatnonzero(bound >= FLOOR - 1e-5)
        likely = likely[np.argsort(-bound[likely], kind="stable")][:_CANDIDATES]
        return [int(owner) for owner in owners[likely]]

    def _compare(self, question: int, text_runs: list[int]) -> tuple[float, str]:
        """Return the overlap of a question with a text by its runs, and their longest run.

        A text much longer than the question is looked at in overlapping windows, so that what is
        strewn over a long text does not add up.
        """
        span = slice(self._starts[question], self._starts[question + 1])
        runs = self._run_at[span].tolist()
        codes, weights = self._codes[span].tolist(), self._token_weights[span].tolist()
        question_runs = set(runs) - {-1}
        window = 2 * len(runs)
        blocks: dict[int, set[int]] = {}
        for position, run in enumerate(text_runs):
            if run in question_runs:
                blocks.setdefault(position // window, set()).add(run)
        best, shared = 0.0, ""
        for block, block_runs in blocks.items():
            covered = _covered(runs, block_runs | blocks.get(block + 1, set()))
            weight = sum(w for w, is_there in zip(weights, covered, strict=True) if is_there)
            overlap = min(1.0, weight / float(self._totals[question]))
            if overlap > best:
                figures = [c for code, c in zip(codes, covered, strict=True) if self._figure[code]]
                overlap = min(overlap, sum(figures) / len(figures) if figures else 1.0)
            if overlap > best:
                best, shared = overlap, self._longest(codes, covered)
        return best, shared

    def _longest(self, codes: list[int], covered: list[bool]) -> str:
        """Return the longest run of covered words."""
        parts = groupby(zip(codes, covered, strict=True), itemgetter(1))
        runs = ([code for code, _ in part] for is_there, part in parts if is_there)
        return " ".join(self._names[code] for code in max(runs, key=len, default=[]))


class OverlapCheck:
    """Base of the filters that keep evaluation questions out.

    It finds them among the run's own evaluation questions and those of the named sets. Questions
    of fewer than `shortest` words are named in a note behind `short_note`.

    Attributes:
        notes: What is shown to the user of the evaluation sets.

    Raises:
        UserError: A set cannot be loaded, or two have one name.
    """

    def __init__(
        self, config: OverlapConfig, context: Context, shortest: int, short_note: str
    ) -> None:
        tasks = enumerate(context.eval_tasks)
        items = [Item("this run", task.id, row, task.question) for row, task in tasks]
        counts = {"this run": len(items)} if items else {}
        unread: list[str] = []
        for eval_set in config.sets:
            label = eval_set.label
            if label in counts:
                raise UserError(f"two evaluation sets are called {label!r}: give one a name")
            set_items, set_notes = read_set(eval_set)
            counts[label] = len(set_items)
            items += set_items
            unread += set_notes
        self._index = Index(items)
        self.notes = ["there is no evaluation question to compare with"]
        if items:
            sizes = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
            self.notes = [f"compared with evaluation questions: {sizes}", *unread]
        self._note("not checked, as they hold no word", self._index.empty)
        why_short = f"{short_note}, as they have fewer than {shortest} words"
        self._note(why_short, self._index.shorter_than(shortest))

    def _note(self, why: str, items: list[Item]) -> None:
        if items:
            self.notes.append(f"{why}: {listed([f'{item.set} {item.id}' for item in items])}")

    def _figures(self, hit: Hit | None, **evidence: str) -> Figures:
        """Return what was measured; without a hit 0, or None where the index is empty."""
        if hit is None:
            return Figures({"overlap": 0.0 if self._index.size else None})
        item, shared = hit.item, {"shared": hit.shared[:_SHOWN]} if hit.shared else {}
        source = {"set": item.set, "item": item.id, "row": item.row, "how": hit.how}
        return Figures({"overlap": hit.overlap}, {**source, **shared, **evidence})


def tokens_of(text: str) -> list[str]:
    """Return the words that are compared: those of `normalise_question`, drawings' code left out.

    A question that is nothing but a drawing keeps it.
    """
    head, *drawings = _DRAWING.split(text)
    if not drawings:
        return normalise_question(text)
    prose = " ".join([head, *(_DRAWING_END.split(part, maxsplit=1)[-1] for part in drawings)])
    return normalise_question(prose) or normalise_question(text)


def _covered(question_runs: list[int], text_runs: set[int]) -> list[bool]:
    """Return which words of a question stand in a run that the text has too."""
    covered, left = [], 0
    for run in question_runs:
        left = RUN if run in text_runs else left - 1
        covered.append(left > 0)
    return covered


def _runs(codes: Ints) -> Keys:
    """Return a key for each run of RUN words: a polynomial of the codes modulo 2^64.

    Words that no question has are of code 0.
    """
    import numpy as np

    count = max(0, len(codes) - RUN + 1)
    keys = np.zeros(count, dtype=np.uint64)
    for step in range(RUN):
        shifted = codes[step : step + count].astype(np.uint64)
        keys = keys * np.uint64(0x9E3779B97F4A7C15) + (shifted + np.uint64(1))
    return keys


def _key(tokens: Sequence[str]) -> bytes:
    return hashlib.blake2b(
        "\n".join(tokens).encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()
