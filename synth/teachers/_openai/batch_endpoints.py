"""The files and batches endpoints of an OpenAI-compatible API, beside the one for chats."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import sys
import time
from collections.abc import Awaitable, Callable
from typing import IO, Any, TypeVar
from urllib.parse import quote

from synth.core.compression import parse_json
from synth.core.errors import Interrupted, Unfinished, UserError
from synth.teachers.base import FIRST_ATTEMPTS, LONGEST_PAUSE_S, RequestRejected, RetryableError
from synth.teachers.openai import Config, OpenAITeacher

T = TypeVar("T")
ENDPOINT = "/v1/chat/completions"
# A batch that was made so long before it was wanted, by clocks that may differ, is another one.
_CLOCKS_DIFFER_S = 86400.0


class Unknown(UserError):
    """The provider knows no such file, batch or address."""


class BatchApi(OpenAITeacher):
    """Files and batches at a provider.

    Args:
        config: Where the API is.
        key: Its key, or None.
        name: The teacher's name, for what is said on the way.
        patience_h: Hours after which an endpoint that does not answer is given up.
    """

    def __init__(self, config: Config, key: str | None, name: str, patience_h: float) -> None:
        super().__init__(config, key)
        self._name, self._patience_s = name, 3600 * patience_h
        self._reached = False
        self._closing = asyncio.Event()

    async def upload(self, lines: bytes) -> str:
        """Uploads the requests of a batch; gives the provider's name for the file."""
        import aiohttp

        async def sent() -> dict[str, Any]:
            form = aiohttp.FormData({"purpose": "batch"})
            form.add_field(
                "file",
                io.BytesIO(lines),
                filename="requests.jsonl",
                content_type="application/jsonl",
            )
            payload = form()
            # The session's own content type would hide the boundary between the parts.
            headers = {"Content-Type": payload.headers["Content-Type"]}
            return await self._api("POST", "/files", data=payload, headers=headers)

        return str((await self._insist(sent))["id"])

    async def make(self, file: str, window: str, since: float) -> str:
        """Makes a batch of an uploaded file, once; gives its name."""
        tried = False

        async def made() -> str:
            nonlocal tried
            # The answer to an attempt may have been lost after the batch was made.
            if tried and (found := await self._made_of(file, since)):
                return found
            tried = True
            wanted = {
                "input_file_id": file,
                "endpoint": ENDPOINT,
                "completion_window": window,
            }
            return str((await self._api("POST", "/batches", json=wanted))["id"])

        return await self._insist(made)

    async def find(self, file: str, since: float) -> str | None:
        """The batch that was made of a file not long before `since` (Unix time), or None."""
        return await self._insist(lambda: self._made_of(file, since))

    async def state(self, id: str) -> dict[str, Any]:
        """A batch as the provider describes it."""
        return await self._insist(lambda: self._api("GET", f"/batches/{quote(id, safe='')}"))

    async def cancel(self, id: str) -> None:
        """Asks for a batch to be cancelled; that it ended meanwhile does not matter."""
        with contextlib.suppress(UserError, RetryableError):
            await self._api("POST", f"/batches/{quote(id, safe='')}/cancel")

    async def download(self, id: str, into: IO[bytes]) -> None:
        """Writes a file of the provider's into an open one."""
        path = f"/files/{quote(id, safe='')}/content"
        await self._insist(lambda: self._api("GET", path, into=into))

    async def _made_of(self, file: str, since: float) -> str | None:
        after = ""
        while True:
            page = await self._api("GET", f"/batches?limit=100{after}", needs="data")
            listed = [one for one in page["data"] or () if isinstance(one, dict)]
            for one in listed:
                if one.get("input_file_id") == file and one.get("status") != "failed":
                    return str(one.get("id"))
            oldest = listed[-1].get("created_at") if listed else None
            if not page.get("has_more") or not isinstance(oldest, int | float):
                return None
            if oldest < since - _CLOCKS_DIFFER_S:
                return None
            after = f"&after={quote(str(listed[-1].get('id')), safe='')}"

    async def _api(
        self,
        method: str,
        path: str,
        into: IO[bytes] | None = None,
        needs: str = "id",
        **sent: Any,
    ) -> dict[str, Any]:
        """One call; a download goes into a file.

        Raises:
            Retry: Another attempt may succeed.
            UserError, Unfinished: None will.
        """
        import aiohttp

        if self._session is None:
            self._session = self._open()
        url = self._url.removesuffix("/chat/completions") + path
        timeout = aiohttp.ClientTimeout(sock_connect=60, sock_read=self._config.timeout_s)
        try:
            async with self._session.request(
                method, url, timeout=timeout, allow_redirects=into is not None, **sent
            ) as response:
                status, headers = response.status, response.headers
                if status == 200 and into is not None:
                    into.seek(0)
                    into.truncate()
                    async for chunk in response.content.iter_chunked(1 << 20):
                        into.write(chunk)
                    return {}
                answer = await response.read()
        except TimeoutError as error:
            raise RetryableError(f"timeout: {method} {path}") from error
        except (aiohttp.ClientError, OSError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            said = " ".join(str(error).replace("ssl:default ", "").split())[:200]
            raise RetryableError(
                f"cannot reach {self._config.base_url}: {said or type(error).__name__}",
                unreachable=isinstance(error, aiohttp.ClientConnectorError),
            ) from error
        if status == 404:
            raise Unknown(
                f"{self._config.base_url} knows no {path.split('?')[0]} (404); kind: openai_batch "
                "needs the files and batches endpoints, kind: openai does without"
            )
        if not 200 <= status < 300:
            failure = self._status(status, headers, answer)
            if isinstance(failure, RequestRejected):
                raise UserError(f"{self._config.base_url}: {method} {path}: {failure}")
            raise failure
        try:
            found = parse_json(answer)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or needs not in found:
            raise RetryableError(f"malformed response: {method} {path}: no object with {needs!r}")
        return found

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeats a call until it is answered: a batch outlives a night without network."""
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
                    self._say(f"{failure.reason}; tried again in {pause:.0f} s")
                await self._sleep(pause)

    async def _sleep(self, seconds: float) -> None:
        """Waits. Raises Interrupted where the run ends meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
            raise Interrupted("left to the next run")

    def _say(self, text: str) -> None:
        said = " ".join(text.split())  # what a provider sends stays on its line
        sys.stderr.write(f"{self._name}: {said}\n")
        sys.stderr.flush()
