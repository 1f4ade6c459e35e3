"""Anthropic's Message Batches: made of requests, without a file that would name them.

A batch that was made just before a kill is found again by its time and its number of requests, and
known by the keys in its results: the API lets a batch carry no name of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable
from typing import IO, Any

from synth.core.errors import UserError
from synth.teachers._anthropic.messages import completion_of, error_status
from synth.teachers._batch.client import CLOCKS_DIFFER_S, MakesErrors
from synth.teachers._batch.http import HttpBatchClient
from synth.teachers._http.client import HttpClient
from synth.teachers.base import RequestRejected, RetryableError


class AnthropicBatches(HttpBatchClient):
    """Message Batches; `url` gives the address of the Messages API."""

    def __init__(
        self,
        errors: MakesErrors,
        name: str,
        patience_h: float,
        connect: Callable[[], HttpClient],
        url: Callable[[], str],
        poll_s: float,
    ) -> None:
        super().__init__(errors, name, patience_h, connect)
        self._address, self._poll_s = url, poll_s
        self._lines: dict[str, bytes] = {}  # of batches that are not made yet
        self._one_at_a_time = asyncio.Lock()

    async def upload(self, lines: bytes) -> str:
        """Keep the requests of a batch until it is made; return a name that says how many."""
        number = lines.count(b"\n")
        name = f"inline-{number}-{uuid.uuid4().hex}"
        self._lines[name] = lines
        return name

    async def create(self, file: str, since: float, keys: Iterable[str]) -> str:
        """Make a batch, once; return its id."""
        tried, wanted = False, set(keys)
        requests = self._lines[file].rstrip(b"\n").replace(b"\n", b",")
        body = b'{"requests":[' + requests + b"]}"

        async def attempt() -> str:
            nonlocal tried
            # The answer to an attempt may have been lost after the batch was made.
            if tried and (id := await self._batch_of(file, since, wanted)):
                return id
            tried = True
            return str((await self._call_with("POST", self._url(), body, "id"))["id"])

        async with self._one_at_a_time:  # so that no other new batch could be taken for this one
            id = await self._retry(attempt)
            self.known.add(id)
        del self._lines[file]
        return id

    async def find(self, file: str, since: float, keys: Iterable[str]) -> str | None:
        """Return the batch that was made of these requests not long before `since`, or None."""
        wanted = set(keys)
        return await self._retry(lambda: self._batch_of(file, since, wanted))

    async def retrieve(self, id: str) -> dict[str, Any]:
        """Return a batch in the form in which OpenAI describes one."""
        batch = await self._retry(lambda: self._call("GET", self._url(id), required="id"))
        counts = _counts(batch)
        status = "in_progress"
        if batch.get("processing_status") == "ended":
            status = "completed"
            if counts.get("expired"):
                status = "expired"
            elif counts.get("canceled"):
                status = "cancelled"
        return {
            "status": status,
            "request_counts": {
                "completed": counts.get("succeeded", 0),
                "failed": sum(counts.get(kind, 0) for kind in ("errored", "canceled", "expired")),
            },
            "output_file_id": id if batch.get("results_url") else None,
        }

    async def cancel(self, id: str) -> None:
        """Ask for a batch to be cancelled; that it ended meanwhile does not matter."""
        with contextlib.suppress(UserError, RetryableError):
            await self._call("POST", self._url(id, "cancel"), {})

    def line(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return a line of the results in the form in which OpenAI writes one."""
        key, result = values.get("custom_id"), values.get("result")
        result = result if isinstance(result, dict) else {}
        kind, response = result.get("type"), None
        error: Any = {"message": f"the request {kind}"}
        if kind == "succeeded" and isinstance(result.get("message"), dict):
            with contextlib.suppress(RetryableError, RequestRejected):
                body = completion_of(result["message"])
                response, error = {"status_code": 200, "body": body}, None
        elif kind == "errored":
            outer = result.get("error")
            inner = outer.get("error", outer) if isinstance(outer, dict) else outer
            status, text = error_status(inner)
            response = {"status_code": status, "body": json.loads(text)}
        return {"custom_id": key, "response": response, "error": error}

    async def _write(self, id: str, file: IO[bytes]) -> None:
        await self._download(self._url(id, "results"), file)

    def _url(self, *path: str) -> str:
        self._connect()  # which makes the address known
        return "/".join([self._address(), "batches", *path])

    async def _batch_of(self, file: str, since: float, keys: set[str]) -> str | None:
        """Return the batch with these requests, or None; wait where only its end can tell."""
        number = re.match(r"inline-(\d+)-", file)
        if number is None:
            return None
        while True:
            candidates = await self._candidates(int(number[1]), since)
            going_on = [b for b in candidates if b.get("processing_status") != "ended"]
            for batch in candidates:
                if batch not in going_on and await self._holds(str(batch["id"]), keys):
                    return str(batch["id"])
            if not going_on:
                return None
            if (
                len(going_on) == 1
            ):  # none of another has results yet; if it is not ours, no key fits
                return str(going_on[0]["id"])
            await self.sleep(self._poll_s)

    async def _candidates(self, number: int, since: float) -> list[dict[str, Any]]:
        """Return the batches of so many requests that no note names, made not long before then."""
        candidates, cursor = list[dict[str, Any]](), ""
        while True:
            page = await self._call("GET", f"{self._url()}?limit=100{cursor}")
            data = page.get("data")
            batches = [b for b in data if isinstance(b, dict)] if isinstance(data, list) else []
            for batch in batches:
                total = sum(_counts(batch).values())
                if total == number and str(batch.get("id")) not in self.known:
                    candidates.append(batch)
            oldest = _unix(batches[-1].get("created_at")) if batches else None
            if not page.get("has_more") or oldest is None or oldest < since - CLOCKS_DIFFER_S:
                return candidates
            cursor = f"&after_id={batches[-1].get('id')}"

    async def _holds(self, id: str, keys: set[str]) -> bool:
        """Return whether the results of a batch that ended are those of some of the keys."""
        with tempfile.TemporaryFile() as file:
            try:
                await self._write(id, file)
            except UserError:
                return False  # no results, so nothing that was paid for
            return not keys.isdisjoint(self._index_lines(file))


def _counts(batch: dict[str, Any]) -> dict[str, int]:
    counts = batch.get("request_counts")
    counts = counts if isinstance(counts, dict) else {}
    return {kind: count for kind, count in counts.items() if isinstance(count, int)}


def _unix(text: Any) -> float | None:
    try:
        return datetime.datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
