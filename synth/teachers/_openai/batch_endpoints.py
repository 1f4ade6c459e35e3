"""Client of an OpenAI-compatible API's files and batches endpoints, over the openai SDK."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from synth.core.compression import parse_json
from synth.core.errors import UserError
from synth.teachers._batch.client import CLOCKS_DIFFER_S, BatchClient, UnknownResource
from synth.teachers._openai.error_inside import error_inside
from synth.teachers._openai.status import StatusErrors
from synth.teachers.base import RequestRejected, RetryableError

if TYPE_CHECKING:
    import openai

ENDPOINT = "/v1/chat/completions"


class OpenAIBatches(BatchClient):
    """Files and batches at a provider. An attempt fails after `timeout_s` without a byte."""

    def __init__(
        self,
        errors: StatusErrors,
        timeout_s: float,
        name: str,
        patience_h: float,
        window: str,
        headers: Mapping[str, str],
        query: Mapping[str, str],
    ) -> None:
        super().__init__(errors, name, patience_h)
        self._errors: StatusErrors = errors
        self._timeout_s, self._window = timeout_s, window
        self._headers, self._query = headers, query

    async def upload(self, lines: bytes) -> str:
        """Upload the requests of a batch; return the file's id."""
        content = ("requests.jsonl", lines, "application/jsonl")
        files = self._sdk.files.with_raw_response
        created = await self._retry(
            lambda: self._object(files.create(file=content, purpose="batch"))
        )
        return str(created["id"])

    async def create(self, file: str, since: float, keys: Iterable[str]) -> str:
        """Make a batch of an uploaded file, once; return its id."""
        tried = False

        async def attempt() -> str:
            nonlocal tried
            # The answer to an attempt may have been lost after the batch was made.
            if tried and (id := await self._batch_of(file, since)):
                return id
            tried = True
            create = self._batches.create(
                input_file_id=file, endpoint=ENDPOINT, completion_window=self._window
            )
            return str((await self._object(create))["id"])

        return await self._retry(attempt)

    async def find(self, file: str, since: float, keys: Iterable[str]) -> str | None:
        """Return the batch that was made of a file not long before `since` (Unix time), or None."""
        return await self._retry(lambda: self._batch_of(file, since))

    async def retrieve(self, id: str) -> dict[str, Any]:
        """Return a batch as the provider describes it."""
        return await self._retry(lambda: self._object(self._batches.retrieve(id)))

    async def cancel(self, id: str) -> None:
        """Ask for a batch to be cancelled; that it ended meanwhile does not matter."""
        with contextlib.suppress(UserError, RetryableError):
            await self._object(self._batches.cancel(id))

    def line(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return a line of results; an error inside a 200 is the status that it stands for."""
        response = values.get("response")
        if not isinstance(response, dict) or response.get("status_code") != 200:
            return values
        body = response.get("body")
        if isinstance(body, dict) and (inner := error_inside(body)):
            error = {"status_code": inner.status, "headers": inner.headers}
            return {**values, "response": {**error, "body": parse_json(inner.body)}}
        return values

    async def close(self) -> None:
        """Close the connections."""
        if sdk := vars(self).pop("_sdk", None):
            await sdk.close()

    @functools.cached_property
    def _sdk(self) -> openai.AsyncOpenAI:
        import openai

        headers: dict[str, Any] = dict(self._headers)
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
            if not isinstance(oldest, int | float) or oldest < since - CLOCKS_DIFFER_S:
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
            for name in self._headers:
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
                if response.status_code == 403 and failure.if_all:
                    raise failure.if_all.error from error
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
