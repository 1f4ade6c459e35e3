"""How much of an evaluation question stands in a text: an index of their runs of words.

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
from filters.base import Context, FilterConfig
from synth.core.errors import UserError
from synth.core.question_text import normalise_question

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

    Attributes:
        overlap: From FLOOR to 1: the share of the question's words that the text has in runs of
            RUN words near together, each word weighing by its rarity in the evaluation sets; or
            the same share of its numbers and operators alone, where that is less.
        item: The question.
        how: In what way.
        shared: The longest run that both have, normalised.
    """

    overlap: float
    item: Item
    how: str
    shared: str

    @property
    def evidence(self) -> dict[str, object]:
        """As a verdict keeps it."""
        item = self.item
        shared = self.shared[:_SHOWN]
        return {"set": item.set, "item": item.id, "row": item.row, "how": self.how} | (
            {"shared": shared} if shared else {}
        )


class Index:
    """Evaluation questions, ready to be looked for. Read-only once made.

    Memory: about 200 bytes a word of the evaluation questions while it is made.

    Args:
        items: The questions. Of those that say the same the first is named.

    Attributes:
        size: How many different questions it holds.
        short: Those of fewer than SHORTEST words.
        short_in_trace: Those of fewer than SHORTEST_IN_TRACE words.
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
        lengths = np.array([len(tokens) for tokens in words], dtype=np.int64)
        self.short = [self._items[i] for i in np.flatnonzero(lengths < SHORTEST)]
        self.short_in_trace = [self._items[i] for i in np.flatnonzero(lengths < SHORTEST_IN_TRACE)]
        spread = Counter(token for tokens in words for token in set(tokens))
        self._vocabulary = {token: number for number, token in enumerate(spread, 1)}
        self._names = ["", *spread]
        frequency = np.array([1, *spread.values()], dtype=np.float64)
        # Inverse document frequency, smoothed so that what stands in every question (the wording
        # of a template) weighs next to nothing, and in a single question all words weigh alike.
        weights = np.log((self.size + 1) / frequency)
        self._figure = [bool(name) and not name[0].isalpha() for name in self._names]
        numbers = self._vocabulary
        self._codes = np.array([numbers[t] for tokens in words for t in tokens], dtype=np.int64)
        self._starts = np.concatenate(([0], np.cumsum(lengths)))
        self._token_weights = weights[self._codes]
        self._build_runs(lengths)

    def _build_runs(self, lengths: Ints) -> None:
        """The runs of all questions, sorted, each with the questions that it stands in."""
        import numpy as np

        keys = _runs(self._codes)
        owner = np.repeat(np.arange(self.size), lengths)
        owner = owner[: len(keys)]
        last = np.repeat(self._starts[1:], lengths)[: len(keys)]
        whole = np.arange(len(keys)) + RUN <= last  # a run ends where its question does
        self._runs, of_run = np.unique(keys[whole], return_inverse=True)
        self._run_at = np.full(len(self._codes), -1, dtype=np.int64)
        self._run_at[np.flatnonzero(whole)] = of_run
        # Each run may add at most the weight of its words to a question's coverage.
        weights = self._token_weights
        sums = np.add.reduceat(weights, self._starts[:-1]) if self.size else np.zeros(0)
        self._totals = np.maximum(sums, 1e-9)
        most = np.zeros(len(keys))
        for step in range(RUN):
            most += weights[step : step + len(keys)]
        order = np.argsort(of_run, kind="stable")
        self._owner = owner[whole][order].astype(np.int32)
        self._share = (most[whole] / self._totals[owner[whole]])[order].astype(np.float32)
        self._places = np.concatenate(([0], np.cumsum(np.bincount(of_run))))

    def same(self, tokens: Sequence[str], reordered: bool = True) -> Hit | None:
        """The evaluation question that has these words, if one has, in this order or another."""
        if (found := self._same.get(_key(tokens))) is not None:
            return Hit(1.0, self._items[found], "the same question", " ".join(tokens))
        if reordered and (found := self._bags.get(_key(sorted(tokens)))) is not None:
            return Hit(1.0, self._items[found], "the same words in another order", "")
        return None

    def within(self, tokens: Sequence[str], shortest: int = SHORTEST) -> Hit | None:
        """The evaluation question of which most stands in a text; None below FLOOR.

        Args:
            tokens: The text's words, from `tokens_of`.
            shortest: Questions of fewer words are not looked for.
        """
        import numpy as np

        known = self._vocabulary
        codes = np.array([known.get(t, 0) for t in tokens], dtype=np.int64)
        if len(codes) < RUN or not len(self._runs):
            return None
        keys = _runs(codes)
        place = np.minimum(np.searchsorted(self._runs, keys), len(self._runs) - 1)
        at = np.where(self._runs[place] == keys, place, -1)  # the text's runs by their number
        runs = at.tolist()
        best: Hit | None = None
        for number in self._candidates(np.unique(at[at >= 0])):
            if self._starts[number + 1] - self._starts[number] < shortest:
                continue
            overlap, shared = self._compare(number, runs)
            if overlap >= FLOOR and (best is None or overlap > best.overlap):
                best = Hit(overlap, self._items[number], "shared words", shared)
        return best

    def _candidates(self, found: Ints) -> list[int]:
        """Questions of which the runs of a text may cover enough, the likeliest first."""
        import numpy as np

        counts = self._places[found + 1] - self._places[found]
        if counts.sum() > _PLACES:
            rarest = np.argsort(counts, kind="stable")
            rarest = rarest[: max(1, int(np.searchsorted(np.cumsum(counts[rarest]), _PLACES)))]
            found, counts = found[rarest], counts[rarest]
        ends = np.cumsum(counts)
        shift = np.repeat(self._places[found] - (ends - counts), counts)
        places = np.arange(ends[-1] if len(ends) else 0) + shift
        owners, inverse = np.unique(self._owner[places], return_inverse=True)
        most = np.bincount(inverse, weights=self._share[places], minlength=len(owners))
        likely = np.flatnonzero(most >= FLOOR - 1e-5)
        likely = likely[np.argsort(-most[likely], kind="stable")][:_CANDIDATES]
        return [int(owner) for owner in owners[likely]]

    def _compare(self, number: int, at: list[int]) -> tuple[float, str]:
        """The overlap of one question with a text whose runs are given, and the longest run.

        A text much longer than the question is looked at in overlapping windows, so that what is
        strewn over a long text does not add up.
        """
        here = slice(self._starts[number], self._starts[number + 1])
        mine = self._run_at[here].tolist()
        codes, weights = self._codes[here].tolist(), self._token_weights[here].tolist()
        own = set(mine) - {-1}
        window = 2 * len(mine)
        blocks: dict[int, set[int]] = {}
        for place, run in enumerate(at):
            if run in own:
                blocks.setdefault(place // window, set()).add(run)
        best, shared = 0.0, ""
        for block, runs in blocks.items():
            covered = _covered(mine, runs | blocks.get(block + 1, set()))
            found = sum(w for w, is_there in zip(weights, covered, strict=True) if is_there)
            overlap = min(1.0, found / float(self._totals[number]))
            if overlap > best:
                figures = [c for code, c in zip(codes, covered, strict=True) if self._figure[code]]
                overlap = min(overlap, sum(figures) / len(figures) if figures else 1.0)
            if overlap > best:
                best, shared = overlap, self._longest(codes, covered)
        return best, shared

    def _longest(self, codes: list[int], covered: list[bool]) -> str:
        """The longest run of covered words."""
        parts = groupby(zip(codes, covered, strict=True), itemgetter(1))
        runs = ([code for code, _ in part] for is_there, part in parts if is_there)
        return " ".join(self._names[code] for code in max(runs, key=len, default=[]))


def build_index(sets: Sequence[EvalSet], context: Context) -> tuple[Index, list[str]]:
    """The index of the run's own evaluation questions and of the named sets, and notes on it.

    Raises:
        UserError: A set cannot be loaded, or two have one name.
    """
    items = [Item("this run", t.id, row, t.question) for row, t in enumerate(context.eval_tasks)]
    notes: list[str] = []
    counts = Counter({"this run": len(items)}) if items else Counter[str]()
    for chosen in sets:
        if chosen.label in counts:
            raise UserError(f"two evaluation sets are called {chosen.label!r}: give one a name")
        found, unread = read_set(chosen)
        counts[chosen.label] = len(found)
        items += found
        notes += unread
    index = Index(items)
    if not items:
        return index, ["there is no evaluation question to compare with"]
    said = ", ".join(f"{number:,} of {name}" for name, number in counts.items())
    notes.insert(0, f"compared with evaluation questions: {said}")
    if index.empty:
        rows = [f"{item.set} {item.id}" for item in index.empty]
        notes.append(f"not checked, as they hold no word: {listed(rows)}")
    return index, notes


def tokens_of(text: str) -> list[str]:
    """The words that are compared: those of `normalise_question`, without the code of drawings.

    A question that is nothing but a drawing keeps it.
    """
    head, *drawings = _DRAWING.split(text)
    if not drawings:
        return normalise_question(text)
    prose = " ".join([head, *(_DRAWING_END.split(part, maxsplit=1)[-1] for part in drawings)])
    return normalise_question(prose) or normalise_question(text)


def _covered(mine: list[int], found: set[int]) -> list[bool]:
    """Which words of a question stand in one of the runs that were found."""
    covered, left = [], 0
    for run in mine:
        left = RUN if run in found else left - 1
        covered.append(left > 0)
    return covered


def _runs(codes: Ints) -> Keys:
    """A key for each run of RUN words (a polynomial modulo 2^64); unknown words have code 0."""
    import numpy as np

    count = max(0, len(codes) - RUN + 1)
    keys = np.zeros(count, dtype=np.uint64)
    for step in range(RUN):
        piece = codes[step : step + count].astype(np.uint64)
        keys = keys * np.uint64(0x9E3779B97F4A7C15) + (piece + np.uint64(1))
    return keys


def _key(tokens: Sequence[str]) -> bytes:
    return hashlib.blake2b(
        "\n".join(tokens).encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()
