"""Client of a provider's batches: what is the same for all, whatever the calls look like.

A call is tried again for hours where it fails in passing: a batch outlives a night without network.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from synth.core.compression import parse_json
from synth.core.errors import Interrupted, Unfinished, UserError
from synth.core.finish_reasons import no_answer
from synth.teachers.base import FIRST_ATTEMPTS, LONGEST_PAUSE_S, RetryableError

T = TypeVar("T")
# A batch that was made so long before it was wanted, by clocks that may differ, is another one.
CLOCKS_DIFFER_S = 86400.0


class MakesErrors(Protocol):
    """Makes exceptions of statuses (`StatusErrors`)."""

    @property
    def base_url(self) -> str:
        """The address that messages name."""
        ...

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        """Return what a status other than 200 means."""
        ...


class UnknownResource(UserError):
    """The provider knows no such file, batch or address."""


@dataclass(frozen=True, slots=True)
class ResultLine:
    """Where a request's line is in a file that was downloaded, and whether it holds an answer."""

    file: IO[bytes]
    start: int
    length: int
    good: bool

    def read(self) -> Any:
        """Return the line as JSON values."""
        self.file.seek(self.start)
        return parse_json(self.file.read(self.length))


class BatchClient(abc.ABC):
    """Batches at a provider.

    An endpoint that does not answer is given up after `patience_h` hours.

    Attributes:
        closing: Once it is set, every wait raises `Interrupted`.
        known: The provider's names of batches that are noted: none of them is another's.
    """

    def __init__(self, errors: MakesErrors, name: str, patience_h: float) -> None:
        self.closing = asyncio.Event()
        self.known: set[str] = set()
        self._errors, self._name, self._patience_s = errors, name, 3600 * patience_h
        self._reached = False

    @abc.abstractmethod
    async def upload(self, lines: bytes) -> str:
        """Hand over the requests of a batch, a line each; return the name by which it is noted."""

    @abc.abstractmethod
    async def create(self, file: str, since: float, keys: Iterable[str]) -> str:
        """Make a batch of what was uploaded, once; return the provider's name for it."""

    @abc.abstractmethod
    async def find(self, file: str, since: float, keys: Iterable[str]) -> str | None:
        """Return the batch that was made of an upload not long before `since`, or None."""

    @abc.abstractmethod
    async def retrieve(self, id: str) -> dict[str, Any]:
        """Return a batch in the form in which OpenAI describes one."""

    @abc.abstractmethod
    async def cancel(self, id: str) -> None:
        """Ask for a batch to be cancelled; that it ended meanwhile does not matter."""

    @abc.abstractmethod
    async def _write(self, id: str, file: IO[bytes]) -> None:
        """Write a file of results into an open one, once."""

    def line(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return a line of results in the form in which OpenAI writes one."""
        return values

    async def close(self) -> None:  # noqa: B027
        """Close the connections."""

    async def download(self, id: str, folder: Path) -> dict[str, ResultLine]:
        """Return the lines of a result file by the key of their requests, kept on the disk."""
        # It may hold gigabytes. It has no name in the folder, so a kill leaves none of it.
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        await self._retry(lambda: self._write(id, file))
        return await asyncio.to_thread(self._index_lines, file)

    def read(self, line: ResultLine) -> dict[str, Any]:
        """Return a line of results as JSON values, in the form in which OpenAI writes one."""
        return self.line(line.read())

    async def sleep(self, seconds: float) -> None:
        """Wait. Raises Interrupted where the run ends meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), seconds)
            raise Interrupted("left to the next run")

    def say(self, text: str) -> None:
        """Write a line on standard error; what a provider sends stays on that line."""
        sys.stderr.write(f"{self._name}: {' '.join(text.split())}\n")
        sys.stderr.flush()

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call until it is answered."""
        attempt, since = 0, time.monotonic()
        while True:
            try:
                answer = await call()
                self._reached = True
                return answer
            except RetryableError as failure:
                attempt += 1
                if not self._reached and failure.unreachable and attempt >= FIRST_ATTEMPTS:
                    raise UserError(failure.reason) from failure
                if time.monotonic() - since > self._patience_s:
                    raise Unfinished(f"no answer for hours: {failure.reason}") from failure
                pause = failure.after or min(LONGEST_PAUSE_S, 0.25 * 2.0 ** min(attempt, 10))
                if attempt > 1:
                    self.say(f"{failure.reason}; tried again in {pause:.0f} s")
                await self.sleep(pause)

    def _index_lines(self, file: IO[bytes]) -> dict[str, ResultLine]:
        """Return the lines of a file by the key of their requests; broken lines are left out."""
        lines: dict[str, ResultLine] = {}
        file.seek(0)
        start = 0
        for text in file:
            with contextlib.suppress(ValueError, RecursionError):
                values = parse_json(text)
                line = self.line(values) if isinstance(values, dict) else {}
                if isinstance(line.get("custom_id"), str):
                    good = _is_answer(line.get("response"))
                    lines[line["custom_id"]] = ResultLine(file, start, len(text), good)
            start += len(text)
        return lines


def _is_answer(response: Any) -> bool:
    if not isinstance(response, dict) or response.get("status_code") != 200:
        return False
    body = response.get("body")
    try:
        return isinstance(body, dict) and no_answer(body) is None
    except ValueError:
        return False
