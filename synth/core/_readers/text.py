"""Opens text files: decompressed, and as UTF-8 without a byte order mark.

Gzip, Zstandard and UTF-16 are told by the first bytes.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from synth.core._readers.row import CHUNK
from synth.core.errors import UserError

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
# What bytes that are no UTF-8 become in text that was decoded with `surrogateescape`.
NOT_UTF8 = re.compile("[\udc80-\udcff]")


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader[Any]]:
    """Opens a file for reading; the library notices where a compressed file is cut short.

    Raises UserError where it cannot be read, or is text of an encoding that is not known.
    """
    try:
        with io.BufferedReader(path.open("rb", buffering=0), CHUNK) as raw:
            head = raw.peek(4)
            codec = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
            if codec is None:
                yield _as_utf8(path, raw)
                return
            import pyarrow as pa

            with pa.input_stream(raw, compression=codec) as stream:
                yield _as_utf8(path, io.BufferedReader(stream, CHUNK))
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name a file in it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _as_utf8(path: Path, file: io.BufferedReader[Any]) -> io.BufferedReader[Any]:
    start = file.peek(4)[:4]
    if start.startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
        return file
    if start in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        raise UserError(f"{path}: written in UTF-32; save it as UTF-8")
    encoding = _utf16(start)
    if encoding is None:
        return file
    return io.BufferedReader(_Recoded(path, io.TextIOWrapper(file, encoding, newline="")), CHUNK)


def _utf16(start: bytes) -> str | None:
    """Names the form of UTF-16 in which a file begins; without a mark, by the zeros of ASCII."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = [byte == 0 for byte in start]
    forms = {(False, True, False, True): "utf-16-le", (True, False, True, False): "utf-16-be"}
    return forms.get(tuple(zeros))  # type: ignore[arg-type]


class _Recoded(io.RawIOBase):
    """Text of another encoding as UTF-8."""

    def __init__(self, path: Path, text: io.TextIOWrapper) -> None:
        self._path, self._text, self._rest = path, text, b""

    def readable(self) -> bool:
        """Tells that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads some bytes; 0 at the end."""
        if not self._rest:
            try:
                self._rest = self._text.read(CHUNK // 4).encode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise UserError(f"{self._path}: not sound UTF-16 ({error.reason})") from error
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
