"""Gemini's batches: of an uploaded file of requests, found again by their display name."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

from synth.core.errors import UserError
from synth.teachers._batch.client import CLOCKS_DIFFER_S, MakesErrors
from synth.teachers._batch.http import HttpBatchClient
from synth.teachers._gemini.content import completion_of
from synth.teachers._http.client import HttpClient
from synth.teachers.base import RequestRejected, RetryableError

_STATUS = {
    "SUCCEEDED": "completed",
    "PARTIALLY_SUCCEEDED": "completed",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "EXPIRED": "expired",
}
# Statuses of HTTP that Google's own codes stand for.
_HTTP = {
    3: 400,
    4: 504,
    5: 404,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    13: 500,
    14: 503,
    16: 401,
}


class GeminiBatches(HttpBatchClient):
    """Batches of one model; `root` gives the API's address with its version."""

    def __init__(
        self,
        errors: MakesErrors,
        name: str,
        patience_h: float,
        connect: Callable[[], HttpClient],
        root: Callable[[], str],
        model: str,
    ) -> None:
        super().__init__(errors, name, patience_h, connect)
        self._root, self._model = root, model

    async def upload(self, lines: bytes) -> str:
        """Upload the requests of a batch; return the file's name."""
        return await self._retry(lambda: self._upload(lines))

    async def create(self, file: str, since: float, keys: Iterable[str]) -> str:
        """Make a batch of an uploaded file, once; return its name."""
        tried = False
        batch = {"displayName": _name_of(file), "inputConfig": {"fileName": file}}

        async def attempt() -> str:
            nonlocal tried
            # The answer to an attempt may have been lost after the batch was made.
            if tried and (id := await self._batch_of(file, since)):
                return id
            tried = True
            url = f"{self._root()}/{self._model}:batchGenerateContent"
            return str((await self._call("POST", url, {"batch": batch}, "name"))["name"])

        return await self._retry(attempt)

    async def find(self, file: str, since: float, keys: Iterable[str]) -> str | None:
        """Return the batch that was made of a file not long before `since` (Unix time), or None."""
        return await self._retry(lambda: self._batch_of(file, since))

    async def retrieve(self, id: str) -> dict[str, Any]:
        """Return a batch in the form in which OpenAI describes one."""
        url = f"{self._root()}/{id}"
        batch = await self._retry(lambda: self._call("GET", url, required="name"))
        metadata = _object(batch, "metadata")
        stats = _object(metadata, "batchStats")
        results = (
            _object(batch, "response").get("responsesFile")
            or _object(metadata, "output").get("responsesFile")
            or _object(_object(batch, "response"), "output").get("responsesFile")
        )
        state: dict[str, Any] = {
            "status": _STATUS.get(_state(metadata), "in_progress"),
            "request_counts": {
                "completed": _count(stats, "successfulRequestCount"),
                "failed": _count(stats, "failedRequestCount"),
            },
            "output_file_id": results,
        }
        if state["status"] == "failed":
            error = _object(batch, "error")
            code = "token_limit" if error.get("code") in (8, 429) else error.get("code")
            message = error.get("message") or "no reason given"
            state["errors"] = {"data": [{"code": code, "message": message}]}
        return state

    async def cancel(self, id: str) -> None:
        """Ask for a batch to be cancelled; that it ended meanwhile does not matter."""
        with contextlib.suppress(UserError, RetryableError):
            await self._call("POST", f"{self._root()}/{id}:cancel", {})

    def line(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return a line of the results in the form in which OpenAI writes one."""
        response, error = None, values.get("error") or {"message": "no response"}
        if isinstance(answer := values.get("response"), dict):
            try:
                response, error = {"status_code": 200, "body": completion_of(answer)}, None
            except RequestRejected as rejection:
                response = {"status_code": 400, "body": {"error": {"message": str(rejection)}}}
            except RetryableError as failure:
                error = {"message": failure.reason}
        elif isinstance(error, dict) and isinstance(code := error.get("code"), int):
            status = _HTTP.get(code, code)
            response = {"status_code": status, "body": {"error": error}} if status >= 400 else None
        return {"custom_id": values.get("key"), "response": response, "error": error}

    async def _write(self, id: str, file: IO[bytes]) -> None:
        await self._download(f"{self._root()}/{id}:download?alt=media", file)

    async def _upload(self, lines: bytes) -> str:
        """Upload in the two steps that Google's API has for it."""
        root, slash, version = self._root().rpartition("/")
        start: Mapping[str, str] = {
            "X_Goog_Upload_Protocol": "resumable",
            "X_Goog_Upload_Command": "start",
            "X_Goog_Upload_Header_Content_Length": str(len(lines)),
            "X_Goog_Upload_Header_Content_Type": "application/jsonl",
        }
        described = json.dumps({"file": {"mimeType": "application/jsonl"}}).encode()
        url = f"{root}/upload{slash}{version}/files"
        status, headers, body = await self._connect().request("POST", url, described, **start)
        if status != 200:
            raise self._failure(f"POST /upload/{version}/files", status, headers, body)
        target = headers.get("x-goog-upload-url", "")
        if not target.startswith(f"{root}/"):  # the key goes to no other host
            raise RetryableError("malformed response: POST /files: no address for the upload")
        finish = {
            "X_Goog_Upload_Command": "upload, finalize",
            "X_Goog_Upload_Offset": "0",
            "Content_Type": "application/jsonl",
        }
        status, headers, body = await self._connect().request("POST", target, lines, **finish)
        if status != 200:
            raise self._failure("POST of a file", status, headers, body)
        try:
            return str(json.loads(body)["file"]["name"])
        except (ValueError, KeyError, TypeError) as error:
            raise RetryableError("malformed response: POST of a file: no file.name") from error

    async def _batch_of(self, file: str, since: float) -> str | None:
        token = ""
        while True:
            url = f"{self._root()}/batches?pageSize=100{token}"
            page = await self._call("GET", url)
            operations = page.get("operations")
            batches = operations if isinstance(operations, list) else []
            batches = [batch for batch in batches if isinstance(batch, dict)]
            for batch in batches:
                metadata = _object(batch, "metadata")
                if metadata.get("displayName") == _name_of(file) and _state(metadata) != "FAILED":
                    return str(batch.get("name"))
            oldest = _unix(_object(batches[-1], "metadata").get("createTime")) if batches else None
            following = page.get("nextPageToken")
            if not following or oldest is None or oldest < since - CLOCKS_DIFFER_S:
                return None
            token = f"&pageToken={following}"


def _name_of(file: str) -> str:
    return f"distill {file}"


def _state(metadata: dict[str, Any]) -> str:
    state = str(metadata.get("state"))
    return state.removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_")


def _object(values: dict[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def _count(stats: dict[str, Any], name: str) -> int:
    value = str(stats.get(name, "0"))  # 64-bit numbers are texts in Google's JSON
    return int(value) if value.isdecimal() else 0


def _unix(text: Any) -> float | None:
    try:
        return datetime.datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
