"""Drops records that are nearly the same as one that stays (exact Jaccard over runs of words)."""

from __future__ import annotations

import contextlib
import itertools
from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pydantic import Field

from filters._dedup.base import (
    DedupResult,
    On,
    RecordTable,
    SimilarityConfig,
    banding,
    decisions,
    select_survivors,
    text_of,
)
from filters._dedup.index import Entry, read_entries, write_entries
from filters.base import Context, Decision, SetCheck
from synth.core.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from filters._dedup.minhash import U32, Sets

R = TypeVar("R")
RowHead: TypeAlias = tuple[int, str]  # a record's row and its question's id


class Config(SimilarityConfig):
    """Options of `near_dedup`."""

    filter_level = "set"
    version = 2

    on: On = Field(
        "trace",
        description="What is compared; `question` leaves `keep` traces of near-same questions",
    )
    threshold: float = Field(0.8, gt=0, le=1, description="Jaccard from which two are the same")
    words: int = Field(5, ge=1, le=50, description="Length of the runs of words compared")
    chains: bool = Field(
        False, description="Neighbours of neighbours are duplicates too; one group, one best"
    )


def memory(config: Config, records: int) -> int:
    """Return the bytes held for so many records, each with a candidate; of words 64 MB at most."""
    keys = 1 if config.within_question else banding(config.threshold).bands
    return 200_000_000 + records * (220 + 12 * keys + 8 * len(config.best))


def build(config: Config, context: Context) -> SetCheck:
    """Build the check.

    The filter goes through the records from the best down (`best`). It drops a record where `keep`
    that stay are at the threshold or nearer. A dropped record is compared with no more, so a chain
    of small changes does not fall as a whole, unless `chains` says so. The score is the Jaccard
    with the nearest record found, whether or not that drops this one.

    Within a question (`per_question`) every pair is compared. Over all records MinHash bands
    propose candidates and the exact Jaccard decides, so nothing is dropped by estimate.
    """
    options = {"on": config.on, "words": config.words}
    kind = {"filter": "near_dedup", "version": Config.version, **options}

    def check(records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        passes = _Passes(config, kind, context, records)
        result = passes.select()
        write_entries(config.index, context.run, kind, passes.kept(result))
        yield from decisions(passes.table, result, "near duplicate", "jaccard", config.threshold)

    return check


def growing(config: Config) -> Callable[[Record], Decision]:
    """Build a check of one record at a time that compares it with all that it kept.

    It knows nothing of `per_question`, `keep`, `best`, `chains` and `index`.
    """
    from filters._dedup.minhash import band_keys, jaccard, shingle_sets

    cut = banding(config.threshold)
    kept: list[tuple[str, U32]] = []
    buckets: list[dict[int, list[int]]] = [{} for _ in range(cut.bands)]

    def check(record: Record) -> Decision:
        sets = shingle_sets([text_of(record, config.on)], config.words)
        keys = band_keys(sets, cut)[0].tolist()
        near = [table.get(key, []) for table, key in zip(buckets, keys, strict=True)]
        score, partner = 0.0, ""
        for row in sorted(set().union(*near)):
            if (similarity := jaccard(sets.of(0), kept[row][1])) > score:
                score, partner = similarity, kept[row][0]
        evidence = {"partner": partner, "jaccard": round(score, 4)} if partner else None
        if score >= config.threshold:
            reason = f"near duplicate: of {partner} (jaccard {score:.3f})"
            return Decision(False, reason, score, config.threshold, evidence)
        for table, key in zip(buckets, keys, strict=True):
            table.setdefault(key, []).append(len(kept))
        kept.append((record.id, sets.of(0)))
        return Decision(True, "", score, config.threshold, evidence)

    return check


class _Passes:
    """The passes over the records of a run: keys, candidates, and what stays."""

    def __init__(
        self,
        config: Config,
        kind: dict[str, Any],
        context: Context,
        records: Callable[[], Iterator[Record]],
    ) -> None:
        self._config, self._kind, self._context, self._records = config, kind, context, records
        self.table = RecordTable(config.best)

    def select(self) -> DedupResult:
        """Return what becomes of each record."""
        from filters._dedup.candidates import LshBuckets, SpillFile, to_buckets
        from filters._dedup.minhash import jaccard

        keys = self._question_keys() if self._config.within_question else self._band_keys()
        shared = to_buckets(keys)
        buckets = LshBuckets(keys)
        with contextlib.closing(SpillFile()) as spill_file:
            for batch, sets in self._sets(lambda sets: sets, shared):
                for index, (row, _) in enumerate(batch):
                    spill_file.write(row, sets.of(index))

            def near(row: int) -> Iterator[tuple[int, float]]:
                shingles = spill_file.read(row)
                for candidate in buckets.candidates(row):
                    yield candidate, jaccard(shingles, spill_file.read(candidate))

            return select_survivors(
                self.table.ranked(shared), self.table, near, buckets.admit,
                self._config.threshold, self._config.keep, self._config.chains,
            )  # fmt: skip

    def kept(self, result: DedupResult) -> Iterator[Entry]:
        """Yield what stays of this run, for an index."""
        stays = ~result.dropped
        stays[: self.table.indexed] = False
        for batch, sets in self._sets(lambda sets: sets, stays):
            for index, (row, question) in enumerate(batch):
                yield Entry(self.table.id(row), question, sets.of(index).tobytes())

    def _question_keys(self) -> U32:
        """Return a number for each record's question, of shape (records, 1)."""
        import numpy as np

        numbers: dict[str, int] = {}
        keys = array("I")
        keys.extend(numbers.setdefault(question, len(numbers)) for question, _ in self._all(True))
        return np.array(keys, np.uint32).reshape(-1, 1)

    def _band_keys(self) -> U32:
        """Return the hashes of each record's bands, of shape (records, bands)."""
        import numpy as np

        from filters._dedup.minhash import band_keys

        cut = banding(self._config.threshold)
        keys = bytearray()
        for _, rows in self._sets(lambda sets: band_keys(sets, cut)):
            keys += rows.tobytes()
        return np.frombuffer(keys, np.uint32).reshape(-1, cut.bands)

    def _all(self, first: bool = False) -> Iterator[tuple[str, Record | bytes]]:
        """Yield every record (of an index its words) behind its question's id.

        The first pass fills the table.
        """
        for run, entry in read_entries(self._config.index, self._context.run, self._kind):
            if first:
                self.table.add_indexed(run, entry.id)
            yield entry.question, entry.data
        for record in self._records():
            if first:
                self.table.add(record)
            yield record.task.id, record

    def _sets(
        self, make: Callable[[Sets], R], among: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[list[RowHead], R]]:
        """Yield what is made of the sets of a batch, behind its rows and questions, in order.

        `make` runs in threads. All records are in the first pass, else those of `among`.
        """
        from filters._dedup.minhash import batches, in_order, shingle_sets, unpacked

        config = self._config

        def wanted() -> Iterator[tuple[RowHead, str | bytes]]:
            for row, (question, data) in enumerate(self._all(among is None)):
                if among is None or among[row]:
                    text = data if isinstance(data, bytes) else text_of(data, config.on)
                    yield (row, question), text

        def work(batch: list[tuple[RowHead, str | bytes]]) -> tuple[list[RowHead], R]:
            texts = [text for _, text in batch if isinstance(text, str)]
            ready = [text for _, text in batch if isinstance(text, bytes)]
            sets = unpacked(ready) if ready else shingle_sets(texts, config.words)
            return [head for head, _ in batch], make(sets)

        parts = itertools.groupby(wanted(), lambda item: type(item[1]))
        each = itertools.chain.from_iterable(batches(part) for _, part in parts)
        yield from in_order(work, each, self._context.workers)
