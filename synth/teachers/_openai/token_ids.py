"""Token ids of the logprobs that an API sends as bytes, by the tokenizer of its model."""

from __future__ import annotations

import functools
from typing import Any


def ids_by_bytes(tokenizer: str) -> Any:
    """Looks token ids up by the bytes that an API sends for each token."""
    from synth.core.models import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    known: dict[bytes, int] = {}
    for text, id in loaded.get_vocab().items():
        known.setdefault(_token_bytes(text), id)

    def id_of(entry: dict[str, Any]) -> int | None:
        raw = entry.get("bytes")
        return known.get(bytes(raw) if raw is not None else entry["token"].encode())

    return id_of


def _token_bytes(text: str) -> bytes:
    """The bytes that a token of the vocabulary stands for (byte-level BPE's letters undone)."""
    table = _byte_letters()
    if all(letter in table for letter in text):
        return bytes(table[letter] for letter in text)
    return text.replace("\u2581", " ").encode("utf-8", "surrogatepass")


@functools.cache
def _byte_letters() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the rest from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}
