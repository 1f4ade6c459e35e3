"""Keeps so many records that stand for all of them best: facility location over embeddings."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

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
    nearest neighbours alone; the smaller the share that is kept, the more neighbours. Nothing is
    drawn: the same records give the same choice, in any order. A dropped record names the kept one
    that stands for it.

    Raises:
        UserError: The embedding model cannot be loaded.
    """
    return _Diversity(config)


class _Diversity:
    def __init__(self, config: Config) -> None:
        self._config = config
        self.notes: list[str] = []

    def __call__(self, records: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        import numpy as np

        embed, rest = embedder(self._config.model), records()
        names: list[str] = []
        raw = bytearray()
        while batch := list(islice(rest, _BATCH)):
            names += [record.id for record in batch]
            raw += embed([self._text(record) for record in batch]).astype(np.float16).tobytes()
        if not names:
            return
        order = sorted(range(len(names)), key=names.__getitem__)
        vectors = np.frombuffer(raw, np.float16).reshape(len(names), -1)[order]
        nearest, cosines = neighbours(vectors, neighbours_of(len(names), self._config.total))
        kept, stand_in, cosine = facility_location(nearest, cosines, self._config.total)
        self.notes.append(
            f"the mean cosine of a record with the kept one nearest to it is {cosine.mean():.3f}"
        )
        sorted_names = [names[place] for place in order]
        counts = np.bincount(stand_in[stand_in >= 0], minlength=len(names))
        number = np.empty(len(names), dtype=np.int64)
        number[order] = np.arange(len(names))
        for place in number.tolist():
            if kept[place]:
                yield Decision(True, "", 1.0, None, {"stands_for": int(counts[place])})
            elif stand_in[place] < 0:
                yield Decision(False, "not chosen: none of its neighbours is kept", 0.0)
            else:
                other, score = sorted_names[stand_in[place]], float(cosine[place])
                evidence = {"stands_in": other}
                yield Decision(False, f"not chosen: {other} stands for it", score, None, evidence)

    def _text(self, record: Record) -> str:
        if self._config.on == "question":
            return record.task.question
        return f"{record.reasoning or ''}\n{record.answer}"


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
            every = block @ whole.T
            found = np.argpartition(-every, count - 1, axis=1)[:, :count]
            near = np.take_along_axis(every, found, axis=1)
        else:
            found = index.search(vectors[start : start + rows], count, threads=1).keys
            found = found.astype(np.int64)
            near = np.einsum("ij,ikj->ik", block, vectors[found].astype(np.float32))
        nearest[start : start + rows], cosines[start : start + rows] = found, near
    return nearest, cosines


def facility_location(
    nearest: NDArray[np.int64], cosines: NDArray[np.float32], total: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.float32]]:
    """The greedy choice of `total` places that cover all places best.

    Args:
        nearest: For each place, places near it.
        cosines: How near.
        total: How many are chosen; all where there are fewer.

    Returns:
        Which are chosen; the chosen place nearest to each (-1: none near); its cosine (0: none).
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
    heap = [(-float(gain), place) for place, gain in enumerate(gains)]
    heapq.heapify(heap)
    left = min(total, size)
    while left:
        _, place = heapq.heappop(heap)
        row = slice(graph.indptr[place], graph.indptr[place + 1])
        near, cosine = graph.indices[row], graph.data[row]
        better = cosine > covered[near]
        gain = float((cosine[better] - covered[near[better]]).sum())
        # Gains only shrink, so one that still beats the others' old gains beats their new ones.
        if heap and -gain > heap[0][0]:
            heapq.heappush(heap, (-gain, place))
            continue
        kept[place], left = True, left - 1
        covered[near[better]], stand_in[near[better]] = cosine[better], place
        covered[place], stand_in[place] = 1.0, place
    return kept, stand_in, covered
