"""Keeps so many records that stand for all of them best: facility location over embeddings."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from filters._dedup.base import text_of
from filters._models.embeddings import DIMENSIONS, STATIC, embedder, missing
from filters.base import Context, Decision, FilterConfig, SetCheck, lacks_package
from synth.core.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_BATCH = 256
# Up to here neighbours are found by comparing all with all (about 25 s), beyond in a graph.
_ALL_PAIRS = 40_000
# Similarities held at a time while all are compared with all, and how widely the graph looks.
_BLOCK, _EXPANSION = 8_000_000, 128


class Config(FilterConfig):
    """Options of `diversity`."""

    filter_level = "set"
    needs = ("one_process",)

    total: int = Field(ge=1, description="How many records are kept")
    on: Literal["question", "trace"] = Field("question", description="What is embedded")
    model: str = Field(
        STATIC,
        description="wordllama (static, fast), all-minilm-l6-v2, or any sentence transformer",
    )


def check(config: Config) -> list[str]:
    """What this machine lacks for the filter."""
    user = "the filter diversity"
    return missing(config.model, user) + lacks_package("usearch", user, "semantic")


def memory(config: Config, records: int) -> int:
    """Bytes that it holds: half-precision vectors, and the neighbours of each record both ways."""
    vector = 2 * DIMENSIONS.get(config.model, 1024)
    graph = vector + 350 if records > _ALL_PAIRS else 0
    each = 2 * vector + graph + 40 * neighbours_of(records, config.total) + 300
    return 300_000_000 + records * each


def build(config: Config, context: Context) -> SetCheck:
    """The check, which keeps `total` records so that every record is near one that is kept.

    It maximises the sum, over all records, of the cosine with the nearest record that is kept
    (facility location), by the greedy choice, which reaches at least 1 - 1/e of the best sum
    (Nemhauser, Wolsey and Fisher 1978), evaluated lazily (Minoux 1978). Cosines count between
    nearest neighbours alone. The same records give the same choice, in any order.
    """
    return _Diversity(config)


class _Diversity:
    def __init__(self, config: Config) -> None:
        self._config = config
        self.notes: list[str] = []

    def __call__(self, records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        import numpy as np

        embed, rest = embedder(self._config.model), records()
        ids: list[str] = []
        raw = bytearray()
        while batch := list(islice(rest, _BATCH)):
            ids += [record.id for record in batch]
            texts = [text_of(record, self._config.on) for record in batch]
            raw += embed(texts).astype(np.float16).tobytes()
        if not ids:
            return
        order = sorted(range(len(ids)), key=ids.__getitem__)
        vectors = np.frombuffer(raw, np.float16).reshape(len(ids), -1)[order]
        nearest, cosines = neighbours(vectors, neighbours_of(len(ids), self._config.total))
        kept, stand_in, cosine = facility_location(nearest, cosines, self._config.total)
        self.notes.append(
            f"the mean cosine of a record with the kept one nearest to it is {cosine.mean():.3f}"
        )
        counts = np.bincount(stand_in[stand_in >= 0], minlength=len(ids))
        for row in np.argsort(order).tolist():  # in the data's order
            if kept[row]:
                yield Decision(True, "", 1.0, None, {"stands_for": int(counts[row])})
            elif stand_in[row] < 0:
                yield Decision(False, "not chosen: none of its neighbours is kept", 0.0)
            else:
                other, score = ids[order[stand_in[row]]], float(cosine[row])
                evidence = {"stands_in": other}
                yield Decision(False, f"not chosen: {other} stands for it", score, None, evidence)


def neighbours_of(records: int, total: int) -> int:
    """How many neighbours of each record are compared: four times what each kept one stands for."""
    return min(records, 256, max(32, -(-4 * records // total)))


def neighbours(
    vectors: NDArray[np.float16], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest of each unit vector, itself among them, and the cosines; in no order."""
    import numpy as np

    size = len(vectors)
    nearest = np.empty((size, count), np.int64)
    cosines = np.empty((size, count), np.float32)
    index: Any = None
    if size <= _ALL_PAIRS:
        whole = vectors.astype(np.float32)
    else:
        from usearch.index import Index

        index = Index(ndim=vectors.shape[1], metric="cos", dtype="f16", expansion_add=_EXPANSION)
        index.add(np.arange(size), vectors, threads=1)  # in one thread: the same graph each time
        index.expansion_search = max(_EXPANSION, count)
    rows = max(1, _BLOCK // max(size, 256 * vectors.shape[1]))
    for start in range(0, size, rows):
        block = vectors[start : start + rows].astype(np.float32)
        if index is None:
            products = block @ whole.T
            near = np.argpartition(-products, count - 1, axis=1)[:, :count]
            similarity = np.take_along_axis(products, near, axis=1)
        else:
            near = index.search(vectors[start : start + rows], count, threads=1).keys
            near = near.astype(np.int64)
            similarity = np.einsum("ij,ikj->ik", block, vectors[near].astype(np.float32))
        nearest[start : start + rows], cosines[start : start + rows] = near, similarity
    return nearest, cosines


def facility_location(
    nearest: NDArray[np.int64], cosines: NDArray[np.float32], total: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.float32]]:
    """The greedy choice of `total` rows, or of all where there are fewer, that cover all best.

    Takes the neighbours of each row and their cosines, of shape (rows, neighbours). Returns which
    rows are chosen; the chosen row nearest to each (-1: none near); its cosine (0: none).
    """
    import numpy as np
    from scipy import sparse

    size, count = nearest.shape
    starts = np.arange(0, size * count + 1, count)
    graph = sparse.csr_matrix((cosines.clip(0, 1).ravel(), nearest.ravel(), starts), (size, size))
    graph.sum_duplicates()
    graph = graph.maximum(graph.T).maximum(sparse.identity(size, np.float32, "csr")).tocsr()
    covered = np.zeros(size, np.float32)
    stand_in = np.full(size, -1, np.int64)
    kept = np.zeros(size, bool)
    gains = np.asarray(graph.sum(axis=1)).ravel()
    heap = [(-float(gain), row) for row, gain in enumerate(gains)]
    heapq.heapify(heap)
    left = min(total, size)
    while left:
        _, row = heapq.heappop(heap)
        near_rows = slice(graph.indptr[row], graph.indptr[row + 1])
        near, cosine = graph.indices[near_rows], graph.data[near_rows]
        better = cosine > covered[near]
        gain = float((cosine[better] - covered[near[better]]).sum())
        # Gains only shrink, so one that still beats the others' old gains beats their new ones.
        if heap and -gain > heap[0][0]:
            heapq.heappush(heap, (-gain, row))
            continue
        kept[row], left = True, left - 1
        covered[near[better]], stand_in[near[better]] = cosine[better], row
        covered[row], stand_in[row] = 1.0, row
    return kept, stand_in, covered
