"""Reads GGUF files in a fraction of the time: fast long arrays, and each header once a process.

A header holds the tokenizer: some hundred thousand short strings. The gguf package makes several
views of a memory map of each, and transformers reads a header anew for each config, tokenizer and
model.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

# Tokenizers and configs that are kept: of a student and a few teachers. A tokenizer is some 20 MB.
_KEPT = 4


def tokenizer_of(path: Path) -> Any:
    """Returns the tokenizer in a GGUF file, a new object each time, as transformers gives it."""
    return copy.deepcopy(_tokenizer(path.resolve(), _state(path)))


def config_of(path: Path) -> Any:
    """Returns the config in a GGUF file, a new object each time, as transformers gives it."""
    return copy.deepcopy(_config(path.resolve(), _state(path)))


def _state(path: Path) -> tuple[int, int]:
    """Returns what tells a file from one that took its place."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=_KEPT)
def _tokenizer(path: Path, _: tuple[int, int]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


@functools.lru_cache(maxsize=_KEPT)
def _config(path: Path, _: tuple[int, int]) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)


def read_fast() -> None:
    """Makes transformers read GGUF files with what is here, where the gguf package is installed."""
    try:
        import gguf
    except ImportError:
        return
    # transformers asks for it anew for every module: a third of the time of loading SmolLM2.
    if not hasattr(gguf.get_tensor_name_map, "cache_info"):
        gguf.get_tensor_name_map = functools.lru_cache(gguf.get_tensor_name_map)
    gguf.GGUFReader = fast_reader()


@functools.cache
def fast_reader() -> Any:
    """Returns a subclass of gguf's reader that reads the arrays of a header by plain slices."""
    import numpy as np
    from gguf.constants import GGUFValueType
    from gguf.gguf_reader import GGUFReader

    class FastReader(GGUFReader):  # type: ignore[misc]
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != GGUFValueType.ARRAY or self.byte_order != "I":
                return super()._get_field_parts(orig_offs, raw_type)
            start = int(orig_offs)
            item_type, count = self._get(start, np.uint32), self._get(start + 4, np.uint64)
            parts, position = [item_type, count], start + 12
            data = self.data.view(np.ndarray)
            kind = GGUFValueType(item_type[0])
            if kind == GGUFValueType.STRING:
                buffer = memoryview(data)
                for _ in range(int(count[0])):
                    text = position + 8
                    end = text + int.from_bytes(buffer[position:text], "little")
                    parts += data[position:text].view(np.uint64), data[text:end]
                    position = end
                indices = list(range(3, len(parts), 2))
            elif (scalar := self.gguf_scalar_to_np.get(kind)) is not None:
                end = position + int(count[0]) * np.dtype(scalar).itemsize
                values = data[position:end].view(scalar)
                parts += [values[i : i + 1] for i in range(len(values))]
                position, indices = end, list(range(2, len(parts)))
            else:
                return super()._get_field_parts(orig_offs, raw_type)
            types = [GGUFValueType.ARRAY, kind] if indices else [GGUFValueType.ARRAY]
            return position - start, parts, indices, types

    return FastReader
