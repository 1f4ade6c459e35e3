"""Client of a provider's batches over plain HTTP: JSON calls, and files to the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from synth.core.compression import parse_json
from synth.core.errors import UserError
from synth.teachers._batch.client import BatchClient, MakesErrors, UnknownResource
from synth.teachers._http.client import HttpClient
from synth.teachers.base import RequestRejected, RetryableError


class HttpBatchClient(BatchClient):
    """Batches at a provider whose calls are JSON. `connect` gives the client of its addresses."""

    def __init__(
        self,
        errors: MakesErrors,
        name: str,
        patience_h: float,
        connect: Callable[[], HttpClient],
    ) -> None:
        super().__init__(errors, name, patience_h)
        self._connect = connect

    async def _call(
        self, method: str, url: str, values: Any = None, required: str = ""
    ) -> dict[str, Any]:
        """Return the JSON object that answers one call; `required` is a key that it has to have."""
        data = None if values is None else json.dumps(values).encode()
        return await self._call_with(method, url, data, required)

    async def _call_with(
        self, method: str, url: str, data: bytes | None, required: str = ""
    ) -> dict[str, Any]:
        status, headers, body = await self._connect().request(method, url, data)
        call = f"{method} {_shown(url)}"
        if status != 200:
            raise self._failure(call, status, headers, body)
        try:
            answer = parse_json(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or (required and not answer.get(required)):
            raise RetryableError(f"malformed response: {call}: no object with {required!r}")
        return answer

    async def _download(self, url: str, file: IO[bytes]) -> None:
        status, headers, body = await self._connect().download(url, file)
        if status != 200:
            raise self._failure(f"GET {_shown(url)}", status, headers, body)

    def _failure(self, call: str, status: int, headers: Any, body: bytes) -> Exception:
        """Return what a status other than 200 means for a call of the batches' endpoints."""
        if status == 404:
            return UnknownResource(f"{self._errors.base_url} knows no {call.split()[1]} (404)")
        failure = self._errors.error(status, headers, body)
        if isinstance(failure, RequestRejected):
            failure = UserError(f"{self._errors.base_url}: {call}: {failure}")
        return failure


def _shown(url: str) -> str:
    """Return an address as messages name it: its path alone."""
    return str(PurePosixPath(urlsplit(url).path))
