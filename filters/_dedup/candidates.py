"""Candidate pairs by locality-sensitive hashing: from band hashes to the records compared."""

from __future__ import annotations

import tempfile
from array import array
from bisect import bisect_left
from collections import Counter
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from filters._dedup.minhash import U32

# Bounds for data that is all alike: who is compared is bounded by the number of records times
# these. A pair at the threshold shares five bands, so the nearest are not among those left out.
_MAX_IN_BUCKET, _MAX_COMPARED = 1000, 64
_MAX_IN_MEMORY = 64 * 1024 * 1024


def to_buckets(keys: U32) -> NDArray[np.bool_]:
    """Turn hashes of shape (records, bands) into numbers of buckets, in place.

    The bucket is the one that the record shares with others in this band, or 0 where it is alone.
    Return which records share any, of shape (records,).
    """
    count = len(keys)
    shared = np.zeros(count, bool)
    buckets = 0
    for band in range(keys.shape[1]):
        packed = (keys[:, band].astype(np.uint64) << np.uint64(32)) | np.arange(
            count, dtype=np.uint64
        )
        packed.sort()
        hashes = (packed >> np.uint64(32)).astype(np.uint32)
        same = np.zeros(count + 1, bool)  # as the one before
        np.equal(hashes[1:], hashes[:-1], out=same[1:-1])
        paired = same[1:] | same[:-1]
        rows = packed.astype(np.uint32)[paired]
        opens = ~same[:-1][paired]
        keys[:, band] = 0
        keys[rows, band] = buckets + np.cumsum(opens)
        buckets += int(np.count_nonzero(opens))
        shared[rows] = True
    return shared


class LshBuckets:
    """The records that were admitted to each bucket of `to_buckets`."""

    def __init__(self, keys: U32) -> None:
        self._keys = keys
        # Most buckets have one member admitted (its row plus 1): four bytes and no list.
        self._first = array("I", bytes(4 * (1 + int(keys.max(initial=0)))))
        self._more: dict[int, list[int]] = {}
        self._rank = array("I", bytes(4 * len(keys)))
        self._admitted = 0
        self._max_candidates = _MAX_COMPARED if keys.shape[1] > 1 else _MAX_IN_BUCKET

    def admit(self, row: int) -> None:
        """Make a record a candidate of those after it."""
        self._rank[row] = self._admitted
        self._admitted += 1
        for bucket in self._buckets(row):
            if not self._first[bucket]:
                self._first[bucket] = row + 1
            elif len(members := self._more.setdefault(bucket, [])) < _MAX_IN_BUCKET:
                members.append(row)

    def candidates(self, row: int) -> list[int]:
        """Return the admitted that share most buckets with a record, then those admitted first."""
        shared: Counter[int] = Counter()
        for bucket in self._buckets(row):
            if first := self._first[bucket]:
                shared[first - 1] += 1
                shared.update(self._more.get(bucket, ()))
        candidates = sorted(shared, key=lambda member: (-shared[member], self._rank[member]))
        return candidates[: self._max_candidates]

    def _buckets(self, row: int) -> list[int]:
        keys = self._keys[row]
        buckets: list[int] = keys[keys > 0].tolist()
        return buckets


class SpillFile:
    """Word runs by record, in memory while they are few and else in a temporary file.

    It has to be closed.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_MAX_IN_MEMORY)  # noqa: SIM115
        self._rows = array("L")
        self._ends = array("Q", [0])
        self.read = lru_cache(maxsize=2048)(self._read)
        self.close = self._file.close

    def write(self, row: int, values: U32) -> None:
        """Add the set of a record; rows come in ascending order."""
        raw = values.tobytes()
        self._rows.append(row)
        self._ends.append(self._ends[-1] + len(raw))
        self._file.write(raw)

    def _read(self, row: int) -> U32:
        index = bisect_left(self._rows, row)
        start, end = self._ends[index : index + 2]
        self._file.seek(start)
        return np.frombuffer(self._file.read(end - start), np.uint32)
