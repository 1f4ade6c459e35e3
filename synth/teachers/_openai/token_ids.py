"""Token ids of the logprobs that an API sends as bytes, by the tokenizer of its model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def ids_by_bytes(tokenizer: str) -> Callable[[dict[str, Any]], int | None]:
    """Return what looks token ids up by the bytes that an API sends for each token."""
    from synth.core.models import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    ids: dict[bytes, int] = {}
    for text, id in loaded.get_vocab().items():
        ids.setdefault(_token_bytes(text), id)

    def id_of(entry: dict[str, Any]) -> int | None:
        raw = entry.get("bytes")
        return ids.get(bytes(raw) if raw is not None else entry["token"].encode())

    return id_of


def _token_bytes(text: str) -> bytes:
    """Return what a token of the vocabulary stands for (byte-level BPE's letters undone)."""
    table = _byte_letters()
    if all(letter in table for letter in text):
        return bytes(table[letter] for letter in text)
    return text.replace("\u2581", " ").encode("utf-8", "surrogatepass")


@functools.cache
def _byte_letters() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}
