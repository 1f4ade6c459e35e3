"""Drops records that mean nearly the same as one that stays (cosine of embeddings)."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from pydantic import Field, model_validator
from synth.core.errors import MissingPackage
from synth.core.record import Record

from filters._dedup.base import DedupConfig, On, RecordTable, choose, decisions, text_of
from filters._dedup.index import Entry, save, saved
from filters._models.embeddings import DIMENSIONS, STATIC, embedder, missing
from filters.base import Context, Decision, SetCheck

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from filters._dedup.base import Neighbours


_BATCH = 256
# Neighbours asked of the graph beyond those that decide, and how widely it looks for them.
_MORE, _EXPANSION = 8, 128


class Config(DedupConfig):
    """Options of `semantic_dedup`."""

    filter_level = "set"
    needs = ("one_process",)

    on: On = Field(
        "trace",
        description="What is compared; `question` leaves `keep` traces of questions of one meaning",
    )
    per_question: bool | None = Field(
        None,
        description="Compare only the traces of the same question; by default so with on: trace",
    )
    threshold: float = Field(0.98, gt=0, le=1, description="Cosine from which two are the same")
    model: str = Field(
        STATIC,
        description="wordllama (static, fast), all-minilm-l6-v2, or any sentence transformer",
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


def check(config: Config) -> list[str]:
    """What this machine lacks for the filter."""
    lacks = missing(config.model, "the filter semantic_dedup")
    if not config.within_question and importlib.util.find_spec("usearch") is None:
        lacks.append(str(MissingPackage("usearch", "the filter semantic_dedup", "semantic")))
    return lacks


def memory(config: Config, records: int) -> int:
    """Bytes held for so many records: half-precision vectors, twice where a graph is built."""
    vector = 2 * DIMENSIONS.get(config.model, 1024)
    each = vector if config.within_question else 2 * vector + 350
    model = 300_000_000 if config.model == STATIC else 1_200_000_000
    return model + records * (each + 200 + 8 * len(config.best))


def build(config: Config, context: Context) -> SetCheck:
    """The check. Choice and options are those of `near_dedup`; the similarity is a cosine.

    Within a question every pair is compared. Over all records a graph (HNSW, Malkov and Yashunin
    2018) of those that stay gives the nearest, and their cosine is then worked out from the
    vectors. Vectors are held in half precision.
    """
    kind = {"filter": "semantic_dedup", "on": config.on, "model": config.model}
    run = context.run

    def check(records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        import numpy as np

        roll, raw, numbers = RecordTable(config.best), bytearray(), list[int]()
        names: dict[str, int] = {}
        for other, entry in saved(config.index, run, kind) if config.index else ():
            roll.add_saved(other, entry.id)
            numbers.append(names.setdefault(entry.question, len(names)))
            raw += entry.data
        embed, rest = embedder(config.model), records()
        while batch := list(islice(rest, _BATCH)):
            for record in batch:
                roll.add(record)
                numbers.append(names.setdefault(record.task.id, len(names)))
            raw += embed([text_of(one, config.on) for one in batch]).astype(np.float16).tobytes()
        if not numbers:
            return
        vectors = np.frombuffer(raw, np.float16).reshape(len(numbers), -1)
        if config.within_question:
            near, admit = _all_of_a_question(vectors, numbers)
        else:
            near, admit = _nearest(vectors, config.keep)
        choice = choose(roll.in_order(), roll, near, admit, config.threshold, config.keep)
        if config.index:
            questions = list(names)
            stay = (n for n in range(roll.saved, len(roll)) if not choice.dropped[n])
            entries = (Entry(roll.id(n), questions[numbers[n]], vectors[n].tobytes()) for n in stay)
            save(config.index, run, kind, entries)
        yield from decisions(roll, choice, "semantic duplicate", "cosine", config.threshold)

    return check


def _cosines(vectors: NDArray[np.float16], number: int, others: list[int]) -> list[float]:
    import numpy as np

    rows = vectors[[number, *others]].astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines: list[float] = np.minimum(rows[1:] @ rows[0], 1.0).tolist()
    return cosines


def _all_of_a_question(
    vectors: NDArray[np.float16], questions: list[int]
) -> tuple[Neighbours, Callable[[int], None]]:
    kept: defaultdict[int, list[int]] = defaultdict(list)

    def near(number: int) -> Iterator[tuple[int, float]]:
        others = kept[questions[number]]
        return zip(others, _cosines(vectors, number, others), strict=True)

    return near, lambda number: kept[questions[number]].append(number)


def _nearest(vectors: NDArray[np.float16], keep: int) -> tuple[Neighbours, Callable[[int], None]]:
    from usearch.index import Index

    index = Index(
        ndim=vectors.shape[1], metric="cos", dtype="f16",
        expansion_add=_EXPANSION, expansion_search=_EXPANSION,
    )  # fmt: skip

    def near(number: int) -> Iterator[tuple[int, float]]:
        if not len(index):
            return iter(())
        found = index.search(vectors[number], keep + _MORE, threads=1).keys.tolist()
        return zip(found, _cosines(vectors, number, found), strict=True)

    def admit(number: int) -> None:
        index.add(number, vectors[number], threads=1)

    return near, admit
