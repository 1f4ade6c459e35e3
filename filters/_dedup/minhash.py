"""Texts as sets of runs of words: hashed, sketched and compared, in arrays and not in strings."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from filters._dedup.base import Banding, folded
from synth.core.text.question_text import CJK

U8: TypeAlias = NDArray[np.uint8]
U32: TypeAlias = NDArray[np.uint32]
U64: TypeAlias = NDArray[np.uint64]
Ints: TypeAlias = NDArray[np.int64]

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S", bound=Sized)

# Characters that are worked on at once: their arrays stay in a core's cache.
CHARACTERS = 1 << 18

_IS_CJK = re.compile(f"[{CJK}]")
_SPACE, _LETTER, _SINGLE, _UNKNOWN = 0, 1, 2, 255

# Odd constants without a pattern: those of splitmix64 (Steele, Lea, Flood 2014) and murmur3.
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MIX_32 = 0x85EBCA6B
# Rounds of hashing into bins: after four a text of 400 words leaves few bins empty.
_ROUNDS = 4


class Sets(NamedTuple):
    """Sets of hashed word runs, one after the other; each sorted and without repetition."""

    values: U32
    offsets: Ints

    def of(self, index: int) -> U32:
        """Return the set of one text."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]


def shingle_sets(texts: Sequence[str], n: int) -> Sets:
    """Return the distinct runs of n words of each text, hashed to 32 bits.

    A text stands between n - 1 blanks on either side, so that one of fewer than n words has runs
    too and compares with longer ones. Words are those of `filters._text.words.words`, case and
    width aside: a Chinese, Japanese or Korean character and a mark are a word each.
    """
    texts = [folded(text) for text in texts]
    # Texts in ASCII take a byte a character, others four: each kind goes by itself.
    sets: list[U32] = [np.zeros(0, np.uint32)] * len(texts)
    for is_ascii in (True, False):
        rows = [row for row, text in enumerate(texts) if text.isascii() == is_ascii]
        if not rows:
            continue
        of_kind = _sets([texts[row] for row in rows], n)
        if len(rows) == len(texts):
            return of_kind
        for index, row in enumerate(rows):
            sets[row] = of_kind.of(index)
    return _joined(sets)


def unpacked(sets: Sequence[bytes]) -> Sets:
    """Return sets from their bytes."""
    return _joined([np.frombuffer(raw, np.uint32) for raw in sets])


def _joined(sets: Sequence[U32]) -> Sets:
    values = np.concatenate([np.zeros(0, np.uint32), *sets])
    return Sets(values, _offsets([len(each) for each in sets]))


def _offsets(lengths: Sequence[int] | Ints) -> Ints:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, dtype=np.int64, out=offsets[1:])
    return offsets


def _sets(texts: list[str], n: int) -> Sets:
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


def _words(texts: list[str]) -> tuple[U64, Ints]:
    """Return the 64-bit hashes of all words, and how many each text has; none becomes a string."""
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
    """Return the class of each character; those that were not met yet are unknown."""
    table = np.full(0x110000, _UNKNOWN, np.uint8)
    table[:128] = [_class(chr(code)) for code in range(128)]
    return table


def _class(character: str) -> int:
    if character.isspace():
        return _SPACE
    return _LETTER if character.isalnum() and not _IS_CJK.match(character) else _SINGLE


@lru_cache(maxsize=1)
def _powers(length: int) -> tuple[U64, U64]:
    """Return the powers of an odd number modulo 2^64, and their inverses."""
    powers, inverses = (
        np.full(length, base, np.uint64) for base in (_MIX_2, pow(_MIX_2, -1, 1 << 64))
    )
    for row in (powers, inverses):
        row[0] = 1
        np.cumprod(row, out=row)
    return powers, inverses


def _mixed(hashes: U64) -> U64:
    """Mix the hashes in place, so that every bit depends on every other."""
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(_MIX_1)
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(_MIX_2)
    return hashes


def signatures(sets: Sets, bins: int) -> U32:
    """Return `bins` numbers a set, each of which two share with the chance of their Jaccard.

    One permutation hashing (Li, Owen, Zhang 2012) in rounds: the elements fall into bins by one
    hash, and the least of a bin stands for it; bins that stay empty take theirs from the next
    hash. What is empty in the end (in short texts) has a permutation of its own. So every bin is an
    unbiased MinHash (Dahlgaard, Knudsen, Thorup 2017, Fast Similarity Sketching), at a cost that
    does not grow with the number of bins where texts are long.
    """
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
        values = sets.of(text)
        if len(values):
            holes = np.flatnonzero(empty[text])
            hashed = (values[None, :] ^ offsets[holes, None]) * factors[holes, None]
            table[text, holes] = hashed.min(axis=1)
    return table


def _mixed_32(values: U32) -> U32:
    values = (values ^ (values >> np.uint32(16))) * np.uint32(_MIX_32)
    mixed: U32 = values ^ (values >> np.uint32(13))
    return mixed


@lru_cache(maxsize=4)
def _permutations(bins: int) -> tuple[U32, U32]:
    """Return a factor (odd) and an offset for each bin."""
    drawn = _mixed(np.arange(1, 2 * bins + 1, dtype=np.uint64) * np.uint64(_GOLDEN))
    halves = (drawn >> np.uint64(32)).astype(np.uint32)
    return halves[:bins] | np.uint32(1), halves[bins:]


def band_keys(sets: Sets, cut: Banding) -> U32:
    """Return a hash of each band of each set's signature, in one row a set."""
    table = signatures(sets, cut.bands * cut.rows).reshape(-1, cut.bands, cut.rows)
    keys = np.zeros(table.shape[:2], np.uint64)
    for row in range(cut.rows):
        keys *= np.uint64(_GOLDEN)
        keys += table[:, :, row]
    return (_mixed(keys) >> np.uint64(32)).astype(np.uint32)


def jaccard(a: U32, b: U32) -> float:
    """Return the elements in both over those in either; two empty sets are the same."""
    if not len(a) and not len(b):
        return 1.0
    together = np.concatenate((a, b))
    together.sort()
    both = int(np.count_nonzero(together[1:] == together[:-1]))
    return both / (len(together) - both)


def batches(
    items: Iterable[tuple[T, S]], characters: int = CHARACTERS
) -> Iterator[list[tuple[T, S]]]:
    """Yield texts with what belongs to each, grouped to about so many characters."""
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
    """Yield the function of each item in order, worked out in threads a few items ahead.

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
