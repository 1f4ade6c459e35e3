"""Drops traces that are nearly the same as one kept before (exact Jaccard over word runs)."""

from __future__ import annotations

import hashlib
import importlib.util
import unicodedata
from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from filters._text import words
from filters.contract import Check, Context, Decision
from synth.errors import MissingPackage
from synth.plugins import PluginConfig
from synth.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Shingles = NDArray[np.uint32]

LEVEL = "set"

# 16 bands of 8 rows meet 0.95 of the pairs at Jaccard 0.8 and 0.99 at 0.85. The library's own
# choice for this threshold, 9 bands of 13, meets 0.40 of them.
BANDS, ROWS = 16, 8


class Config(PluginConfig):
    """Options of `near_dedup`."""

    on: Literal["trace", "question"] = Field(
        "trace", description="What is compared; `question` leaves one trace of near-same questions"
    )
    per_question: bool | None = Field(
        None,
        description="Compare only the traces of the same question; by default so with on: trace",
    )
    threshold: float = Field(0.8, gt=0, le=1, description="Jaccard from which two are the same")
    words: int = Field(5, ge=1, le=50, description="Length of the runs of words compared")

    @model_validator(mode="after")
    def _sense(self) -> Config:
        if self.on == "question" and self.per_question:
            raise ValueError("on: question compares different questions: leave out per_question")
        return self


def check(config: Config) -> list[str]:
    """What this machine lacks for the filter."""
    compares_all = config.on == "question" or config.per_question is False
    if compares_all and importlib.util.find_spec("datasketch") is None:
        return [str(MissingPackage("datasketch", "the filter near_dedup"))]
    return []


def build(config: Config, context: Context) -> Check:
    """The check, which remembers the hashed runs of what it kept (4 bytes a word, about).

    The first of several near-same records is kept; later ones are compared with what was kept
    only, so a chain of small changes does not fall as a whole. The score is the Jaccard with the
    nearest record found, whether or not it drops this one.

    Traces are compared within their question (`task.id`) unless `per_question` is false: short
    traces of different arithmetic questions differ in a few numbers alone and are still no
    duplicates. Within a question every pair is compared. Over all records, MinHash (128
    permutations, 16 bands of 8) proposes candidates and the exact Jaccard decides, so nothing is
    dropped by estimate; below a threshold of about 0.7 the bands begin to miss pairs.

    A Chinese, Japanese or Korean character is a word. Case and width of letters do not count,
    marks do. Two empty texts are the same.
    """
    per_question = config.on == "trace" and config.per_question is not False
    index = _Grouped() if per_question else _Banded()

    def check(record: Record) -> Decision:
        if config.on == "question":
            text = record.task.question
        else:
            text = f"{record.reasoning or ''}\n{record.answer}"
        mine = shingles(text, config.words)
        score, partner = 0.0, ""
        for name, theirs in index.candidates(record, mine):
            if (similarity := jaccard(mine, theirs)) > score:
                score, partner = similarity, name
        if score >= config.threshold:
            return Decision(False, f"near duplicate: of {partner} (J={score:.2f})", score)
        index.keep(record, mine)
        return Decision(True, "", score)

    return check


class _Grouped:
    """What was kept, by question: everything of the same question is a candidate."""

    def __init__(self) -> None:
        self._kept: defaultdict[str, list[tuple[str, Shingles]]] = defaultdict(list)

    def candidates(self, record: Record, mine: Shingles) -> list[tuple[str, Shingles]]:
        return self._kept[record.task.id]

    def keep(self, record: Record, mine: Shingles) -> None:
        self._kept[record.task.id].append((record.id, mine))


class _Banded:
    """What was kept, by MinHash bands: whatever shares a band is a candidate."""

    def __init__(self) -> None:
        from datasketch import MinHash, MinHashLSH

        self._blank = MinHash(num_perm=BANDS * ROWS, seed=1, hashfunc=int)
        self._index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
        self._kept: list[tuple[str, Shingles]] = []
        self._last: Any = None

    def candidates(self, record: Record, mine: Shingles) -> list[tuple[str, Shingles]]:
        self._last = self._blank.copy()
        self._last.update_batch(mine.tolist())
        return [self._kept[number] for number in sorted(self._index.query(self._last))]

    def keep(self, record: Record, mine: Shingles) -> None:
        self._index.insert(len(self._kept), self._last)
        self._kept.append((record.id, mine))


def shingles(text: str, n: int) -> Shingles:
    """The distinct runs of n words of a text, hashed to 32 bits and sorted.

    The text stands between n - 1 blanks on either side, so that a text of fewer than n words has
    runs too and compares with longer ones.

    >>> len(shingles("one two three four", 3))
    6
    """
    import numpy as np

    tokens = words(unicodedata.normalize("NFKC", text).casefold())
    codes = np.zeros(len(tokens) + 2 * (n - 1), dtype=np.uint64)
    codes[n - 1 : n - 1 + len(tokens)] = [_code(token) for token in tokens]
    runs = np.zeros(max(0, len(codes) - n + 1), dtype=np.uint64)
    for place in range(n):  # a polynomial of the words' hashes, modulo 2^64
        runs = runs * np.uint64(0x9E3779B97F4A7C15) + codes[place : place + len(runs)]
    unique: Shingles = np.unique((runs >> np.uint64(32)).astype(np.uint32))
    return unique


def jaccard(a: Shingles, b: Shingles) -> float:
    """Runs in both over runs in either; two empty sets are the same."""
    import numpy as np

    both = len(np.intersect1d(a, b, assume_unique=True))
    either = len(a) + len(b) - both
    return both / either if either else 1.0


@lru_cache(maxsize=100_000)
def _code(token: str) -> int:
    """A word's 64-bit hash: the same in every process, unlike `hash`, so that runs repeat."""
    raw = token.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")
