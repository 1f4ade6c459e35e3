"""Drops records that mean nearly the same as one that stays (cosine of embeddings)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from pydantic import Field

from filters._dedup import base
from filters._dedup.base import On, RecordTable, SimilarityConfig, text_of
from filters._dedup.index import Entry, read_entries, write_entries
from filters._models.embeddings import DIMENSIONS, STATIC, embedder, missing
from filters.base import Context, Decision, SetCheck, lacks_package
from synth.core.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from filters._dedup.base import Neighbours


_BATCH = 256
# Neighbours asked of the graph beyond those that decide, and how widely it looks for them.
_MORE, _EXPANSION = 8, 128


class Config(SimilarityConfig):
    """Options of `semantic_dedup`."""

    filter_level = "set"
    needs = ("one_process",)

    on: On = Field(
        "trace",
        description="What is compared; `question` leaves `keep` traces of questions of one meaning",
    )
    threshold: float = Field(0.98, gt=0, le=1, description="Cosine from which two are the same")
    model: str = Field(
        STATIC,
        description="wordllama (static, fast), all-minilm-l6-v2, or any sentence transformer",
    )


def check(config: Config) -> list[str]:
    """Return what this machine lacks for the filter."""
    user = "the filter semantic_dedup"
    graph = [] if config.within_question else lacks_package("usearch", user, "semantic")
    return missing(config.model, user) + graph


def memory(config: Config, records: int) -> int:
    """Return the bytes held for so many records: float16 vectors, twice where there is a graph."""
    vector = 2 * DIMENSIONS.get(config.model, 1024)
    each = vector if config.within_question else 2 * vector + 350
    model = 300_000_000 if config.model == STATIC else 1_200_000_000
    return model + records * (each + 200 + 8 * len(config.best))


def build(config: Config, context: Context) -> SetCheck:
    """Build the check. Choice and options are those of `near_dedup`; the similarity is a cosine.

    Within a question every pair is compared. Over all records a graph (HNSW, Malkov and Yashunin
    2018) of those that stay gives the nearest, whose cosine is then worked out from the vectors.
    """
    kind = {"filter": "semantic_dedup", "on": config.on, "model": config.model}
    run = context.run

    def check(records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        import numpy as np

        table, raw, question_of = RecordTable(config.best), bytearray(), list[int]()
        questions: dict[str, int] = {}
        for other_run, entry in read_entries(config.index, run, kind):
            table.add_indexed(other_run, entry.id)
            question_of.append(questions.setdefault(entry.question, len(questions)))
            raw += entry.data
        embed, rest = embedder(config.model), records()
        while batch := list(islice(rest, _BATCH)):
            for record in batch:
                table.add(record)
                question_of.append(questions.setdefault(record.task.id, len(questions)))
            texts = [text_of(record, config.on) for record in batch]
            raw += embed(texts).astype(np.float16).tobytes()
        if not question_of:
            return
        vectors = np.frombuffer(raw, np.float16).reshape(len(question_of), -1)
        if config.within_question:
            near, admit = _all_of_a_question(vectors, question_of)
        else:
            near, admit = _nearest(vectors, config.keep)
        result = base.select_survivors(
            table.ranked(), table, near, admit, config.threshold, config.keep
        )
        ids = list(questions)
        entries = (
            Entry(table.id(row), ids[question_of[row]], vectors[row].tobytes())
            for row in result.kept_rows(table)
        )
        write_entries(config.index, run, kind, entries)
        yield from base.decisions(table, result, "semantic duplicate", "cosine", config.threshold)

    return check


def _cosines(vectors: NDArray[np.float16], row: int, neighbours: list[int]) -> list[float]:
    """Return the cosine of one vector with each of some others, worked out in float32."""
    import numpy as np

    rows = vectors[[row, *neighbours]].astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines: list[float] = np.minimum(rows[1:] @ rows[0], 1.0).tolist()
    return cosines


def _all_of_a_question(
    vectors: NDArray[np.float16], question_of: list[int]
) -> tuple[Neighbours, Callable[[int], None]]:
    """Return a search over all admitted records of the same question, and what admits one."""
    kept: defaultdict[int, list[int]] = defaultdict(list)

    def near(row: int) -> Iterator[tuple[int, float]]:
        neighbours = kept[question_of[row]]
        return zip(neighbours, _cosines(vectors, row, neighbours), strict=True)

    return near, lambda row: kept[question_of[row]].append(row)


def _nearest(vectors: NDArray[np.float16], keep: int) -> tuple[Neighbours, Callable[[int], None]]:
    """Return a search in an HNSW graph of the admitted records, and what admits one."""
    from usearch.index import Index

    index = Index(
        ndim=vectors.shape[1], metric="cos", dtype="f16",
        expansion_add=_EXPANSION, expansion_search=_EXPANSION,
    )  # fmt: skip

    def near(row: int) -> Iterator[tuple[int, float]]:
        if not len(index):
            return iter(())
        neighbours = index.search(vectors[row], keep + _MORE, threads=1).keys.tolist()
        return zip(neighbours, _cosines(vectors, row, neighbours), strict=True)

    def admit(row: int) -> None:
        index.add(row, vectors[row], threads=1)

    return near, admit
