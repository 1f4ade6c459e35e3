"""Server-sent events: an incremental parser of the bytes of a stream."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

DONE = "[DONE]"  # the name of the event whose data are these: OpenAI's end of a stream
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event of a stream: its name ("" for none) and its data."""

    name: str
    data: bytes


class EventParser:
    r"""Makes events of bytes, however the network cut these into packets.

    Example:
        >>> parser = EventParser()
        >>> list(parser.feed(b": keep-alive\n\ndata: {}\n")), list(parser.feed(b"\n"))
        ([], [Event(name='', data=b'{}')])
    """

    def __init__(self) -> None:
        self._line = bytearray()  # what came of a line that has not ended
        self._searched = 0  # so much of it holds no line end
        self._name, self._data = "", list[bytes]()
        self._first = True

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that a chunk of bytes completes."""
        self._line += chunk
        start, search_from = 0, self._searched
        while (end := _LINE_END.search(self._line, search_from)) is not None:
            if end[0] == b"\r" and end.end() == len(self._line):
                break  # a line feed may follow, and is of the same line end
            line = bytes(self._line[start : end.start()])
            start = search_from = end.end()
            yield from self._take(line)
        del self._line[:start]
        self._searched = max(0, len(self._line) - 1)

    def close(self) -> Iterator[Event]:
        """Yield the event that the stream ended in: some servers leave its last line end out."""
        if self._line:
            yield from self._take(bytes(self._line).rstrip(b"\r"))
            self._line.clear()
        yield from self._take(b"")

    def _take(self, line: bytes) -> Iterator[Event]:
        """Read one line; an empty one ends the event."""
        if self._first:
            line, self._first = line.removeprefix(_BYTE_ORDER_MARK), False
        if not line:
            if self._data:
                data = b"\n".join(self._data)
                yield Event(DONE if data.strip() == DONE.encode() else self._name, data)
            self._name, self._data = "", []
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
