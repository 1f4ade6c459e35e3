"""Client of an OpenAI-compatible API's files and batches endpoints, over the openai SDK.

A call is tried again for hours where it fails in passing: a batch outlives a night without network.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from synth.core.compression import parse_json
from synth.core.errors import Interrupted, Unfinished, UserError
from synth.core.finish_reasons import no_answer
from synth.teachers._openai.error_inside import error_inside
from synth.teachers._openai.status import StatusErrors
from synth.teachers.base import FIRST_ATTEMPTS, LONGEST_PAUSE_S, RequestRejected, RetryableError

if TYPE_CHECKING:
    import openai

T = TypeVar("T")
ENDPOINT = "/v1/chat/completions"
# A batch that was made so long before it was wanted, by clocks that may differ, is another one.
_CLOCKS_DIFFER_S = 86400.0


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


class BatchClient:
    """Files and batches at a provider.

    An attempt fails after `timeout_s` without a byte. An endpoint that does not answer is given up
    after `patience_h` hours.
    """

    def __init__(
        self,
        errors: StatusErrors,
        timeout_s: float,
        name: str,
        patience_h: float,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> None:
        self.closing = asyncio.Event()  # every wait then raises `Interrupted`
        self._errors, self._timeout_s = errors, timeout_s
        self._name, self._patience_s = name, 3600 * patience_h
        self._headers, self._query = headers, query
        self._reached = False

    async def upload(self, lines: bytes) -> str:
        """Upload the requests of a batch; return the file's id."""
        content = ("requests.jsonl", lines, "application/jsonl")
        files = self._sdk.files.with_raw_response
        created = await self._retry(
            lambda: self._object(files.create(file=content, purpose="batch"))
        )
        return str(created["id"])

    async def create(self, file: str, window: str, since: float) -> str:
        """Make a batch of an uploaded file, once; return its id."""
        tried = False

        async def attempt() -> str:
            nonlocal tried
            # The answer to an attempt may have been lost after the batch was made.
            if tried and (id := await self._batch_of(file, since)):
                return id
            tried = True
            create = self._batches.create(
                input_file_id=file, endpoint=ENDPOINT, completion_window=window
            )
            return str((await self._object(create))["id"])

        return await self._retry(attempt)

    async def find(self, file: str, since: float) -> str | None:
        """Return the batch that was made of a file not long before `since` (Unix time), or None."""
        return await self._retry(lambda: self._batch_of(file, since))

    async def retrieve(self, id: str) -> dict[str, Any]:
        """Return a batch as the provider describes it."""
        return await self._retry(lambda: self._object(self._batches.retrieve(id)))

    async def cancel(self, id: str) -> None:
        """Ask for a batch to be cancelled; that it ended meanwhile does not matter."""
        with contextlib.suppress(UserError, RetryableError):
            await self._object(self._batches.cancel(id))

    async def download(self, id: str, folder: Path) -> dict[str, ResultLine]:
        """Return the lines of a result file by the key of their requests, kept on the disk."""
        # It may hold gigabytes. It has no name in the folder, so a kill leaves none of it.
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        await self._retry(lambda: self._write(id, file))
        return await asyncio.to_thread(_index_lines, file)

    async def sleep(self, seconds: float) -> None:
        """Wait. Raises Interrupted where the run ends meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), seconds)
            raise Interrupted("left to the next run")

    def say(self, text: str) -> None:
        """Write a line on standard error; what a provider sends stays on that line."""
        sys.stderr.write(f"{self._name}: {' '.join(text.split())}\n")
        sys.stderr.flush()

    async def close(self) -> None:
        """Close the connections."""
        if sdk := vars(self).pop("_sdk", None):
            await sdk.close()

    @functools.cached_property
    def _sdk(self) -> openai.AsyncOpenAI:
        import openai

        headers: dict[str, Any] = dict(self._headers or {})
        if headers and not self._errors.key:  # the key is in a header of its own
            headers = {"Authorization": openai.Omit(), **headers}
        return openai.AsyncOpenAI(
            api_key=self._errors.key or "none",
            base_url=self._errors.base_url,
            timeout=openai.Timeout(self._timeout_s, connect=60),
            default_headers=headers,
            default_query=self._query,
            max_retries=0,  # `_retry` does it, for longer and with a message
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
        )

    @property
    def _batches(self) -> Any:
        return self._sdk.batches.with_raw_response

    async def _batch_of(self, file: str, since: float) -> str | None:
        cursor: dict[str, Any] = {}
        while True:
            page = await self._object(self._batches.list(limit=100, **cursor), required="data")
            batches = [entry for entry in page["data"] or () if isinstance(entry, dict)]
            for batch in batches:
                if batch.get("input_file_id") == file and batch.get("status") != "failed":
                    return str(batch.get("id"))
            oldest = batches[-1].get("created_at") if batches and page.get("has_more") else None
            if not isinstance(oldest, int | float) or oldest < since - _CLOCKS_DIFFER_S:
                return None
            cursor = {"after": str(batches[-1].get("id"))}

    async def _object(self, call: Awaitable[Any], required: str = "id") -> dict[str, Any]:
        """Return the JSON object that answers a call."""
        with self._translated():
            response = await call
        try:
            values = parse_json(response.content)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict) or required not in values:
            call_name = self._call_name(response.http_request)
            raise RetryableError(f"malformed response: {call_name}: no object with {required!r}")
        return values

    async def _write(self, id: str, file: IO[bytes]) -> None:
        """Write a file of the provider's into an open one, a MiB at a time."""
        import openai

        # A provider may redirect to where its files lie; all other calls end at a redirect.
        hooks = {"request": [self._drop_headers_elsewhere]}
        async with openai.DefaultAsyncHttpxClient(event_hooks=hooks) as http:
            files = self._sdk.with_options(http_client=http).files
            with self._translated():
                async with files.with_streaming_response.content(id) as response:
                    file.seek(0)
                    file.truncate()
                    try:
                        async for chunk in response.iter_bytes(1 << 20):
                            file.write(chunk)
                    except OSError:  # of the disk
                        raise
                    except Exception as error:  # whatever the SDK's HTTP library raises
                        raise self._unreachable(error) from error

    async def _drop_headers_elsewhere(self, request: Any) -> None:
        """Take the configured headers, which may hold secrets, off a request to another host."""
        if request.url.host != self._sdk.base_url.host:
            for name in self._headers or ():
                request.headers.pop(name, None)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the SDK's errors into those of a teacher."""
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            response, call = error.response, self._call_name(error.request)
            if response.status_code == 404:
                raise UnknownResource(
                    f"{self._errors.base_url} knows no {call.split()[1]} (404); kind: openai_batch "
                    "needs the files and batches endpoints, kind: openai does without"
                ) from error
            failure = self._errors.error(response.status_code, response.headers, response.content)
            if isinstance(failure, RequestRejected):
                failure = UserError(f"{self._errors.base_url}: {call}: {failure}")
            raise failure from error
        except openai.APITimeoutError as error:
            raise RetryableError(f"timeout: {self._call_name(error.request)}") from error
        except openai.APIConnectionError as error:
            raise self._unreachable(error.__cause__ or error) from error

    def _call_name(self, request: Any) -> str:
        """Return a call as messages name it, such as `POST /files`."""
        prefix = str(self._sdk.base_url.path).rstrip("/")
        return f"{request.method} {request.url.path.removeprefix(prefix)}"

    def _unreachable(self, error: BaseException) -> RetryableError:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return RetryableError(
            f"cannot reach {self._errors.base_url}: {reason}",
            unreachable=type(error).__name__ == "ConnectError",  # of httpx or httpx2
        )

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


def _index_lines(file: IO[bytes]) -> dict[str, ResultLine]:
    """Return the lines of a file by the key of their requests; broken lines are left out."""
    lines: dict[str, ResultLine] = {}
    file.seek(0)
    start = 0
    for text in file:
        with contextlib.suppress(ValueError, RecursionError):
            line = parse_json(text)
            if isinstance(line, dict) and isinstance(line.get("custom_id"), str):
                good = _is_answer(line.get("response"))
                lines[line["custom_id"]] = ResultLine(file, start, len(text), good)
        start += len(text)
    return lines


def _is_answer(response: Any) -> bool:
    if not isinstance(response, dict) or response.get("status_code") != 200:
        return False
    body = response.get("body")
    try:
        return isinstance(body, dict) and error_inside(body) is None and no_answer(body) is None
    except ValueError:
        return False
