"""Drops records that are nearly the same as one that stays (exact Jaccard over runs of words)."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field, model_validator
from synth.core.record import Record

from filters._dedup.base import (
    DedupConfig,
    DedupResult,
    On,
    RecordTable,
    choose,
    decisions,
    text_of,
)
from filters._dedup.candidates import LshBuckets, SpillFile, to_buckets
from filters._dedup.index import Entry, save, saved
from filters._dedup.minhash import (
    Sets,
    band_keys,
    banding,
    batches,
    in_order,
    jaccard,
    shingle_sets,
    unpacked,
)
from filters.base import Context, Decision, SetCheck

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from filters._dedup.minhash import U32

R = TypeVar("R")


class Config(DedupConfig):
    """Options of `near_dedup`."""

    filter_level = "set"
    version = 2

    on: On = Field(
        "trace",
        description="What is compared; `question` leaves `keep` traces of near-same questions",
    )
    per_question: bool | None = Field(
        None,
        description="Compare only the traces of the same question; by default so with on: trace",
    )
    threshold: float = Field(0.8, gt=0, le=1, description="Jaccard from which two are the same")
    words: int = Field(5, ge=1, le=50, description="Length of the runs of words compared")
    chains: bool = Field(
        False, description="Neighbours of neighbours are duplicates too; one group, one best"
    )

    @model_validator(mode="after")
    def _sense(self) -> Config:
        if self.on == "question" and self.per_question:
            raise ValueError("on: question compares different questions: leave out per_question")
        return self

    @property
    def within_question(self) -> bool:
        """Whether only traces of one question are compared."""
        return self.on == "trace" if self.per_question is None else self.per_question


def memory(config: Config, records: int) -> int:
    """Bytes held for so many records, each of them with a candidate.

    Words of candidates go to a temporary file where they take more than 64 MB.
    """
    keys = 1 if config.within_question else banding(config.threshold).bands
    return 200_000_000 + records * (220 + 12 * keys + 8 * len(config.best))


def build(config: Config, context: Context) -> SetCheck:
    """The check.

    Records are gone through from the best down (`best`), and one is dropped where `keep` that
    stay are at the threshold or nearer. What was dropped is compared with no more, so a chain of
    small changes does not fall as a whole, unless `chains` says so. The score is the Jaccard with
    the nearest record found, whether or not it drops this one.

    Traces are compared within their question (`task.id`) unless `per_question` is false: short
    traces of different arithmetic questions differ in a few numbers alone and are still no
    duplicates. Within a question every pair is compared. Over all records MinHash bands propose
    candidates and the exact Jaccard decides, so nothing is dropped by estimate.

    A Chinese, Japanese or Korean character is a word. Case and width of letters do not count,
    marks do. Two empty texts are the same.
    """
    version = Config.version
    kind = {"filter": "near_dedup", "version": version, "on": config.on, "words": config.words}
    run = context.run

    def check(records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        work = _Work(config, kind, run, records, context.workers)
        choice = work.choose()
        if config.index:
            save(config.index, run, kind, work.kept(choice))
        yield from decisions(work.roll, choice, "near duplicate", "jaccard", config.threshold)

    return check


def growing(config: Config) -> Callable[[Record], Decision]:
    """A check that is asked of one record at a time and remembers what it kept.

    It compares with everything that it kept, as the filter does with `per_question: false`, and
    knows nothing of `keep`, `best`, `chains` and `index`.
    """
    cut = banding(config.threshold)
    kept: list[tuple[str, U32]] = []
    buckets: list[dict[int, list[int]]] = [{} for _ in range(cut.bands)]

    def check(record: Record) -> Decision:
        sets = shingle_sets([text_of(record, config.on)], config.words)
        keys = band_keys(sets, cut)[0].tolist()
        near = [table.get(key, []) for table, key in zip(buckets, keys, strict=True)]
        score, partner = 0.0, ""
        for number in sorted(set().union(*near)):
            if (found := jaccard(sets.of(0), kept[number][1])) > score:
                score, partner = found, kept[number][0]
        evidence = {"partner": partner, "jaccard": round(score, 4)} if partner else None
        if score >= config.threshold:
            reason = f"near duplicate: of {partner} (jaccard {score:.3f})"
            return Decision(False, reason, score, config.threshold, evidence)
        for table, key in zip(buckets, keys, strict=True):
            table.setdefault(key, []).append(len(kept))
        kept.append((record.id, sets.of(0)))
        return Decision(True, "", score, config.threshold, evidence)

    return check


class _Work:
    """One go over the records of a run."""

    def __init__(
        self,
        config: Config,
        kind: dict[str, Any],
        run: str,
        records: Callable[[], Iterator[Record]],
        workers: int,
    ) -> None:
        self._config, self._kind, self._run = config, kind, run
        self._records, self._workers = records, workers
        self.roll = RecordTable(config.best)

    def choose(self) -> DedupResult:
        """What becomes of each record."""
        keys = self._questions() if self._config.within_question else self._bands()
        shared = to_buckets(keys)
        buckets = LshBuckets(keys)
        with SpillFile() as spool:
            for batch, sets in self._sets(lambda sets: sets, shared):
                for place, (number, _) in enumerate(batch):
                    spool.write(number, sets.of(place))

            def near(number: int) -> Iterator[tuple[int, float]]:
                mine = spool.read(number)
                for other in buckets.candidates(number):
                    yield other, jaccard(mine, spool.read(other))

            return choose(
                self.roll.in_order(shared), self.roll, near, buckets.admit,
                self._config.threshold, self._config.keep, self._config.chains,
            )  # fmt: skip

    def kept(self, choice: DedupResult) -> Iterator[Entry]:
        """What stays of this run, for an index."""
        stays = ~choice.dropped
        stays[: self.roll.saved] = False
        for batch, sets in self._sets(lambda sets: sets, stays):
            for place, (number, question) in enumerate(batch):
                yield Entry(self.roll.id(number), question, sets.of(place).tobytes())

    def _questions(self) -> U32:
        """The number of its question for each record: records of one question share a bucket."""
        import numpy as np

        numbers: dict[str, int] = {}
        keys = array("I")
        keys.extend(numbers.setdefault(question, len(numbers)) for question, _ in self._all(True))
        return np.array(keys, np.uint32).reshape(-1, 1)

    def _bands(self) -> U32:
        """The hashes of its bands for each record."""
        import numpy as np

        cut = banding(self._config.threshold)
        keys = bytearray()
        for _, rows in self._sets(lambda sets: band_keys(sets, cut)):
            keys += rows.tobytes()
        return np.frombuffer(keys, np.uint32).reshape(-1, cut.bands)

    def _all(self, first: bool = False) -> Iterator[tuple[str, Record | bytes]]:
        """Every record behind its question's id; of an index its words. The first pass calls up."""
        if self._config.index:
            for run, entry in saved(self._config.index, self._run, self._kind):
                if first:
                    self.roll.add_saved(run, entry.id)
                yield entry.question, entry.data
        for record in self._records():
            if first:
                self.roll.add(record)
            yield record.task.id, record

    def _sets(
        self, make: Callable[[Sets], R], among: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[list[tuple[int, str]], R]]:
        """What is made of the words of the records, with their numbers and questions, in order.

        Args:
            make: What to make of the sets of a batch; runs in threads.
            among: Which records; all of them in the first pass.
        """
        config = self._config

        def wanted() -> Iterator[tuple[tuple[int, str], str | bytes]]:
            for number, (question, data) in enumerate(self._all(among is None)):
                if among is None or among[number]:
                    text = data if isinstance(data, bytes) else text_of(data, config.on)
                    yield (number, question), text

        def work(batch: list[tuple[tuple[int, str], str | bytes]]) -> R:
            texts = [text for _, text in batch if isinstance(text, str)]
            ready = [text for _, text in batch if isinstance(text, bytes)]
            return make(unpacked(ready) if ready else shingle_sets(texts, config.words))

        parts = itertools.groupby(wanted(), lambda item: type(item[1]))
        each = itertools.chain.from_iterable(batches(part) for _, part in parts)
        for batch, made in in_order(lambda batch: (batch, work(batch)), each, self._workers):
            yield [head for head, _ in batch], made
