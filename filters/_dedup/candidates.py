"""From hashes of bands to the few records that each record is compared with."""

from __future__ import annotations

import tempfile
from array import array
from bisect import bisect_left
from collections import Counter
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from filters._dedup.minhash import U32

# Bounds for data that is all alike: who is compared is bounded by the number of records times
# these. A pair at the threshold shares five bands, so the nearest are not among those left out.
_IN_A_BUCKET, _COMPARED = 1000, 64
_IN_MEMORY = 64 * 1024 * 1024


def to_buckets(keys: U32) -> NDArray[np.bool_]:
    """Turns hashes into numbers of buckets, in place.

    Args:
        keys: A row a record and a column a band. Afterwards each entry is the number of the
            bucket that the record shares with others in this band, or 0 where it is alone.

    Returns:
        Which records share any.
    """
    import numpy as np

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
        mates = same[1:] | same[:-1]
        numbers = packed.astype(np.uint32)[mates]
        opens = ~same[:-1][mates]
        keys[:, band] = 0
        keys[numbers, band] = buckets + np.cumsum(opens)
        buckets += int(np.count_nonzero(opens))
        shared[numbers] = True
    return shared


class LshBuckets:
    """Who was admitted to which bucket."""

    def __init__(self, keys: U32) -> None:
        self._keys = keys
        # Most buckets have one member admitted (its number plus 1): four bytes and no list.
        self._first = array("I", bytes(4 * (1 + int(keys.max(initial=0)))))
        self._more: dict[int, list[int]] = {}
        self._place = array("I", bytes(4 * len(keys)))
        self._admitted = 0
        self._most = _COMPARED if keys.shape[1] > 1 else _IN_A_BUCKET

    def admit(self, number: int) -> None:
        """Makes a record a candidate of those after it."""
        self._place[number] = self._admitted
        self._admitted += 1
        for bucket in self._of(number):
            if not self._first[bucket]:
                self._first[bucket] = number + 1
            elif len(members := self._more.setdefault(bucket, [])) < _IN_A_BUCKET:
                members.append(number)

    def candidates(self, number: int) -> list[int]:
        """The admitted that share most buckets with a record, then those admitted first."""
        shared: Counter[int] = Counter()
        for bucket in self._of(number):
            if first := self._first[bucket]:
                shared[first - 1] += 1
                shared.update(self._more.get(bucket, ()))
        found = sorted(shared, key=lambda other: (-shared[other], self._place[other]))
        return found[: self._most]

    def _of(self, number: int) -> list[int]:
        row = self._keys[number]
        buckets: list[int] = row[row > 0].tolist()
        return buckets


class SpillFile:
    """Sets of numbers by record, in a temporary file where they are many."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        self._numbers = array("L")
        self._ends = array("Q", [0])
        self.read = lru_cache(maxsize=2048)(self._read)

    def write(self, number: int, values: U32) -> None:
        """Adds the set of a record; numbers come in their order."""
        raw = values.tobytes()
        self._numbers.append(number)
        self._ends.append(self._ends[-1] + len(raw))
        self._file.write(raw)

    def _read(self, number: int) -> U32:
        import numpy as np

        place = bisect_left(self._numbers, number)
        start, end = self._ends[place : place + 2]
        self._file.seek(start)
        return np.frombuffer(self._file.read(end - start), np.uint32)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
