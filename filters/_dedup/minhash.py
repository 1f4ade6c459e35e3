"""Texts as sets of runs of words: hashed, sketched and compared, in arrays and not in strings."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from synth.core.question_text import CJK, nfkc

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    U8: TypeAlias = NDArray[np.uint8]
    U32: TypeAlias = NDArray[np.uint32]
    U64: TypeAlias = NDArray[np.uint64]
    Places: TypeAlias = NDArray[np.int64]

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S", bound=Sized)

# Bands of a signature, the part of the pairs at the threshold that they shall propose, and the
# most rows of a band: more would save few comparisons and cost as much in hashing.
_BANDS, _RECALL, _MOST_ROWS = 24, 0.993, 7
# Characters that are worked on at once: their arrays stay in a core's cache.
CHARACTERS = 1 << 18

_IS_CJK = re.compile(f"[{CJK}]")
_SPACE, _LETTER, _SINGLE, _UNKNOWN = 0, 1, 2, 255

# Odd constants without a pattern: those of splitmix64 (Steele, Lea, Flood 2014) and murmur3.
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MIX_32 = 0x85EBCA6B


# Rounds of hashing into bins: after four a text of 400 words leaves few bins empty.
_ROUNDS = 4


class Banding(NamedTuple):
    """How a signature is cut: two sets are candidates where all rows of one band agree."""

    bands: int
    rows: int

    def chance(self, jaccard: float) -> float:
        """The chance that a pair of this Jaccard is a candidate: 1 - (1 - J^rows)^bands."""
        return 1.0 - (1.0 - jaccard**self.rows) ** self.bands


def banding(threshold: float) -> Banding:
    """As many rows as leave a pair at the threshold a chance of 0.993 to be a candidate.

    At 0.8 these are 7 rows with a chance of 0.996; at 0.85 it is then 0.9999.
    """
    rows = _MOST_ROWS
    while rows > 1 and Banding(_BANDS, rows).chance(threshold) < _RECALL:
        rows -= 1
    return Banding(_BANDS, rows)


class Sets(NamedTuple):
    """Sets of hashed word runs, one after the other; each sorted and without repetition."""

    values: U32
    offsets: Places

    def of(self, place: int) -> U32:
        """The set of one text."""
        return self.values[self.offsets[place] : self.offsets[place + 1]]


def folded(text: str) -> str:
    """The text without case and width (NFKC, then case folding); linear in time.

    >>> folded("ＡB")
    'ab'
    """
    return text.lower() if text.isascii() else nfkc(text).casefold()


def shingle_sets(texts: Sequence[str], n: int) -> Sets:
    """The distinct runs of n words of each text, hashed to 32 bits.

    A text stands between n - 1 blanks on either side, so that one of fewer than n words has runs
    too and compares with longer ones. Words are those of `filters._text.words.words`, case and
    width aside: a Chinese, Japanese or Korean character and a mark are a word each.
    """
    import numpy as np

    texts = [folded(text) for text in texts]
    # Texts in ASCII take a byte a character, others four: each kind goes by itself.
    kinds = [
        [place for place, text in enumerate(texts) if text.isascii() == ascii]
        for ascii in (True, False)
    ]
    found = [_sets([texts[place] for place in kind], n) for kind in kinds if kind]
    if len(found) == 1:
        return found[0]
    if not found:
        return Sets(np.zeros(0, np.uint32), np.zeros(1, np.int64))
    pieces: list[U32] = [found[0].values[:0]] * len(texts)
    for kind, sets in zip(kinds, found, strict=True):
        for place, own in enumerate(kind):
            pieces[own] = sets.of(place)
    return Sets(np.concatenate(pieces), _offsets([len(piece) for piece in pieces]))


def unpacked(sets: Sequence[bytes]) -> Sets:
    """Sets from their bytes."""
    import numpy as np

    arrays = [np.frombuffer(raw, np.uint32) for raw in sets]
    return Sets(np.concatenate(arrays), _offsets([len(array) for array in arrays]))


def _offsets(lengths: Sequence[int] | Places) -> Places:
    import numpy as np

    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _sets(texts: list[str], n: int) -> Sets:
    import numpy as np

    words, counts = _words(texts)
    blanks = np.uint64(n - 1)
    padded = np.zeros(len(words) + (n - 1) * (len(texts) + 1), np.uint64)
    places = np.arange(len(words))
    places += np.repeat(np.arange(1, len(texts) + 1) * int(blanks), counts)
    padded[places] = words
    length = len(padded) - n + 1
    runs = padded[:length].copy()
    for place in range(1, n):  # a polynomial of the words' hashes, modulo 2^64
        runs *= np.uint64(_GOLDEN)
        runs += padded[place : place + length]
    runs = _mixed(runs)
    runs >>= np.uint64(32)
    # One sort for all texts: the text above, the run below.
    sizes = counts + (n - 1)
    runs |= np.repeat(np.arange(len(texts), dtype=np.uint64) << np.uint64(32), sizes)
    runs.sort()
    if len(runs):
        runs = runs[np.concatenate(([True], runs[1:] != runs[:-1]))]
    edges = np.arange(len(texts) + 1, dtype=np.uint64) << np.uint64(32)
    return Sets(runs.astype(np.uint32), np.searchsorted(runs, edges).astype(np.int64))


def _words(texts: list[str]) -> tuple[U64, Places]:
    """The 64-bit hashes of all words, and how many each text has. No word becomes a string."""
    import numpy as np

    whole = "\n".join([*texts, ""])
    characters: U8 | U32
    if whole.isascii():
        characters = np.frombuffer(whole.encode(), np.uint8)
        classes = _classes()[:128][characters]
    else:
        characters = np.frombuffer(whole.encode("utf-32-le", "surrogatepass"), np.uint32)
        classes = _classified(characters)
    letters = np.zeros(len(classes) + 2, bool)
    np.equal(classes, _LETTER, out=letters[1:-1])
    single = classes == _SINGLE
    starts = np.flatnonzero((letters[1:-1] & ~letters[:-2]) | single)
    ends = np.flatnonzero((letters[1:-1] & ~letters[2:]) | single) + 1
    # A word's hash is a polynomial of its characters modulo 2^64: a difference of sums from the
    # start of everything, divided by the power that it starts at.
    powers, inverses = _powers(max(CHARACTERS * 2, 1 << (len(characters) - 1).bit_length()))
    sums = np.zeros(len(characters) + 1, np.uint64)
    np.multiply(characters, powers[: len(characters)], out=sums[1:], dtype=np.uint64)
    np.cumsum(sums, out=sums)
    words = (sums[ends] - sums[starts]) * inverses[starts]
    words += np.uint64(_GOLDEN)  # a NUL is a word, not the blank beside a text
    edges = _offsets([len(text) + 1 for text in texts])
    return _mixed(words), np.diff(np.searchsorted(starts, edges))


def _classified(characters: U32) -> U8:
    import numpy as np

    known = _classes()
    classes: U8 = known[characters]
    new = classes == _UNKNOWN
    if new.any():
        for code in np.unique(characters[new]).tolist():
            known[code] = _class(chr(code))
        classes = known[characters]
    return classes


@lru_cache(maxsize=1)
def _classes() -> U8:
    """What each character is; those that were not met yet are unknown."""
    import numpy as np

    table = np.full(0x110000, _UNKNOWN, np.uint8)
    table[:128] = [_class(chr(code)) for code in range(128)]
    return table


def _class(character: str) -> int:
    if character.isspace():
        return _SPACE
    return _LETTER if character.isalnum() and not _IS_CJK.match(character) else _SINGLE


@lru_cache(maxsize=1)
def _powers(length: int) -> tuple[U64, U64]:
    """The powers of an odd number modulo 2^64, and their inverses."""
    import numpy as np

    bases = (_MIX_2, pow(_MIX_2, -1, 1 << 64))
    powers = [np.full(length, base, np.uint64) for base in bases]
    for row in powers:
        row[0] = 1
        np.cumprod(row, out=row)
    return powers[0], powers[1]


def _mixed(hashes: U64) -> U64:
    """The hashes with every bit depending on every other; in place."""
    import numpy as np

    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(_MIX_1)
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(_MIX_2)
    return hashes


def signatures(sets: Sets, bins: int) -> U32:
    """For each set `bins` numbers, each of which two sets share with the chance of their Jaccard.

    One permutation hashing (Li, Owen, Zhang 2012) in rounds: the elements fall into bins by one
    hash, and the least of a bin stands for it; bins that stay empty take theirs from the next
    hash. What is empty in the end (in short texts) has a permutation of its own. So every bin is an
    unbiased MinHash (Dahlgaard, Knudsen, Thorup 2017, Fast Similarity Sketching), at a cost that
    does not grow with the number of bins where texts are long.
    """
    import numpy as np

    texts, sizes = len(sets.offsets) - 1, np.diff(sets.offsets)
    # How far a set goes through the rounds depends on nothing but what is empty: the signatures of
    # sets of any two sizes have to fit together.
    table = np.zeros((texts, bins), np.uint32)
    empty = np.ones((texts, bins), bool)
    # The text above, the element below: sorted, the least of each bin comes first.
    keys = np.repeat(np.arange(texts, dtype=np.uint64) << np.uint64(32), sizes) | sets.values
    for attempt in range(_ROUNDS):
        if attempt:
            again = np.logical_or.reduce(empty, axis=1)
            keys = keys[again[keys >> np.uint64(32)]]
            keys = (keys & np.uint64(0xFFFFFFFF00000000)) | _mixed_32(keys.astype(np.uint32))
            keys.sort()
        if not len(keys):
            break
        places = (keys & np.uint64(0xFFFFFFFF)) * np.uint64(bins) >> np.uint64(32)
        places += (keys >> np.uint64(32)) * np.uint64(bins)
        least = np.flatnonzero(np.concatenate(([True], places[1:] != places[:-1])))
        places = places[least]
        if attempt:
            free = empty.ravel()[places]
            least, places = least[free], places[free]
        table.ravel()[places] = keys[least].astype(np.uint32)
        empty.ravel()[places] = False
    factors, offsets = _permutations(bins)
    for text in np.flatnonzero(empty.any(axis=1)).tolist():
        mine = sets.of(text)
        if len(mine):
            holes = np.flatnonzero(empty[text])
            hashed = (mine[None, :] ^ offsets[holes, None]) * factors[holes, None]
            table[text, holes] = hashed.min(axis=1)
    return table


def _mixed_32(values: U32) -> U32:
    import numpy as np

    values = (values ^ (values >> np.uint32(16))) * np.uint32(_MIX_32)
    mixed: U32 = values ^ (values >> np.uint32(13))
    return mixed


@lru_cache(maxsize=4)
def _permutations(bins: int) -> tuple[U32, U32]:
    """A factor (odd) and an offset for each bin."""
    import numpy as np

    drawn = _mixed(np.arange(1, 2 * bins + 1, dtype=np.uint64) * np.uint64(_GOLDEN))
    halves = (drawn >> np.uint64(32)).astype(np.uint32)
    return halves[:bins] | np.uint32(1), halves[bins:]


def band_keys(sets: Sets, cut: Banding) -> U32:
    """A hash of each band of each set's signature, in one row a set."""
    import numpy as np

    table = signatures(sets, cut.bands * cut.rows).reshape(-1, cut.bands, cut.rows)
    keys = np.zeros(table.shape[:2], np.uint64)
    for row in range(cut.rows):
        keys *= np.uint64(_GOLDEN)
        keys += table[:, :, row]
    return (_mixed(keys) >> np.uint64(32)).astype(np.uint32)


def jaccard(a: U32, b: U32) -> float:
    """Elements in both over elements in either; two empty sets are the same."""
    import numpy as np

    if not len(a) and not len(b):
        return 1.0
    together = np.concatenate((a, b))
    together.sort()
    both = int(np.count_nonzero(together[1:] == together[:-1]))
    return both / (len(together) - both)


def batches(
    items: Iterable[tuple[T, S]], characters: int = CHARACTERS
) -> Iterator[list[tuple[T, S]]]:
    """Texts with what belongs to each, grouped to about so many characters."""
    batch: list[tuple[T, S]] = []
    held = 0
    for item in items:
        batch.append(item)
        held += len(item[1]) + 1
        if held >= characters:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def in_order(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """The function of each item, in order, worked out in threads a few items ahead.

    Threads and not processes: array work lets go of the interpreter, and texts stay where they are.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="dedup") as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers * 2:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
