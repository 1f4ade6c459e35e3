"""Reads JSON fast, and stores bytes as Zstandard with a checksum."""

from __future__ import annotations

import json
import threading
from typing import Any

_threads = threading.local()  # a compressor serves one thread at a time


def compress(data: bytes) -> bytes:
    """Compresses with a checksum: a flipped bit is noticed when it is read."""
    if not hasattr(_threads, "compressor"):
        import zstandard

        _threads.compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    packed: bytes = _threads.compressor.compress(data)
    return packed


def decompress(data: bytes) -> bytes:
    """Returns what `compress` was given. Raises ValueError where the data is damaged."""
    import zstandard

    if not hasattr(_threads, "decompressor"):
        _threads.decompressor = zstandard.ZstdDecompressor()
    try:
        unpacked: bytes = _threads.decompressor.decompress(data)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    return unpacked


def parse_json(body: bytes) -> Any:
    """Reads JSON from bytes, fast. Lone surrogates and NaN pass. Raises ValueError."""
    from pydantic_core import from_json

    try:
        return from_json(body)
    except ValueError:
        try:
            return json.loads(body)  # takes lone surrogates, which models do write
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
