"""Base class of the teachers that ask in batches: mostly half the price, within a day.

Requests are gathered, handed over together and answered together. Whenever the process is killed,
no request is bought twice: what was uploaded is noted in the response store before a batch is made
of it, so that the next run finds the batch (by what it was made of, if its own name was not noted
any more), waits for it and asks nothing of it again. What is killed before that note has cost
nothing.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import copy
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from pydantic import Field

from synth.core.errors import DistillError, Interrupted, Unfinished, UserError
from synth.core.plugins import PluginConfig
from synth.core.record import Request, canonical_json
from synth.core.usage import usage_of
from synth.store.keys import RequestKey, request_key
from synth.store.responses import Batch, ResponseMetadata, ResponseStore, StoreFull
from synth.teachers._batch.client import BatchClient, ResultLine, UnknownResource
from synth.teachers._http.options import HttpConfig
from synth.teachers._http_teacher import HttpTeacher
from synth.teachers._pricing import price_of
from synth.teachers._response import check_answer, parse_answer
from synth.teachers.base import RequestRejected, RetryableError

_ENDED = ("completed", "expired", "cancelled", "failed")
_ONLINE_AT_ONCE = 64  # what a batch left over comes by the thousand; the endpoint has its limits
_TELL_EVERY_S = 60.0
_ALONE = 2  # failures for want of room, with no other batch of ours, before that is the end


class BatchConfig(PluginConfig):
    """How requests are put together.

    `price` is what a token costs in a batch, mostly half of what it costs online.
    """

    concurrency: int | None = Field(
        10_000, ge=1, description="Most requests in flight: they are in batches, for hours"
    )
    gather_s: float = Field(
        30.0, ge=0, description="A batch is sent when no request came for so many seconds"
    )
    max_requests: int = Field(50_000, ge=1, description="Most requests a batch")
    max_bytes: int = Field(200_000_000, ge=1, description="Largest file of a batch's requests")
    poll_s: float = Field(30.0, gt=0, description="Seconds between two looks at a batch")
    give_up_h: float = Field(
        26.0,
        gt=0,
        description="Hours after which a batch is cancelled; what it lacks is asked anew",
    )
    online: bool = Field(
        True, description="Ask online what a batch left over; false: in the next batch"
    )


# What became of a request in a batch. None: it is in none after all, and is to be asked.
_Outcome = ResultLine | Exception | None


class BatchTeacher(HttpTeacher):
    """One model behind a provider's batches; a kind joins it with its teacher that answers online.

    Its identity is the online teacher's: an answer is the same however it was bought, so changing
    between the kinds buys nothing again.
    """

    skip_probe = True  # one request would be a batch; the upload proves key and address

    def __init__(self, config: HttpConfig, key: str | None, name: str) -> None:
        super().__init__(config, key)
        options: Any = config  # of both kinds
        self._options: BatchConfig = options
        self._name = name
        self._client = self._batches()
        self._endpoint = canonical_json(self.identity)
        self._store: ResponseStore
        self._run = ""
        self._waiting: dict[str, asyncio.Future[_Outcome]] = {}
        self._gathered: list[tuple[RequestKey, bytes]] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._submitted: dict[str, Batch] = {}  # at the provider now, by the batch's name
        self._collected: list[tuple[Batch, list[RequestKey]]] = []  # and which of it were answered
        self._left_over: set[str] = set()
        self._online = asyncio.Semaphore(_ONLINE_AT_ONCE)
        self._only_online = False

    @abc.abstractmethod
    def _batches(self) -> BatchClient:
        """Return the client of the provider's batches."""

    @abc.abstractmethod
    def _entry(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the line of a batch for a request: its key and its body."""

    def open(self, store: ResponseStore, run: str) -> None:
        """Take up the batches that earlier runs left at the provider."""
        self._store, self._run = store, run
        loop = asyncio.get_running_loop()
        for batch in reversed(store.batches(self._endpoint)):
            # What an older batch left over may be in a newer one, which then has the say.
            batch.requests = [r for r in batch.requests if r.key not in self._waiting]
            self._client.known |= {batch.id} if batch.id else set()
            self._waiting |= {request.key: loop.create_future() for request in batch.requests}
            self._start(self._resume(batch), batch.requests)

    def disable_batching(self) -> None:
        """Ask online from now on: someone waits for a few answers."""
        self._only_online = True

    async def complete(self, request: Request) -> dict[str, Any] | bytes:
        """Return the request's answer, out of a batch."""
        key = request_key(request, self.identity)
        if self._only_online or (self._options.online and key.key in self._left_over):
            async with self._online:
                return await super().complete(request)
        outcome: _Outcome = None
        while outcome is None:
            waiting = self._waiting.get(key.key) or self._gather(key, request)
            outcome = await asyncio.shield(waiting)  # two may wait for the same
            if self._waiting.get(key.key) is waiting:
                del self._waiting[key.key]
        try:
            return self._answer(outcome, request)
        except RetryableError:
            self._left_over.add(key.key)
            raise

    def cancel_pending(self) -> None:
        """Leave all batches to the next run: whoever waits for an answer is told so."""
        self._client.closing.set()
        for work in self._work:
            work.cancel()
        self._forget_gathered()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(Interrupted("left to the next run"))
        self._tell_left()

    async def close(self) -> None:
        """Collect what has ended, keep the answers that nobody asked for, and close."""
        self._client.closing.set()
        self._forget_gathered()
        await asyncio.gather(*self._work, return_exceptions=True)
        self._tell_left()
        with contextlib.suppress(StoreFull):  # then their batches stay noted
            await self._keep_unasked()
            await self._end_settled()
        await self._client.close()
        await super().close()

    def _gather(self, key: RequestKey, request: Request) -> asyncio.Future[_Outcome]:
        """Put a request into the next batch."""
        line = json.dumps(self._entry(key.key, self._body(request))).encode() + b"\n"
        if self._gathered and self._bytes + len(line) > self._options.max_bytes:
            self._send_off()
        loop = asyncio.get_running_loop()
        waiting = self._waiting[key.key] = loop.create_future()
        self._gathered.append((key, line))
        self._bytes += len(line)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(self._options.gather_s, self._send_off)
        if len(self._gathered) >= self._options.max_requests:
            self._send_off()
        return waiting

    def _send_off(self) -> None:
        requests = [key for key, _ in self._gathered]
        lines = b"".join(line for _, line in self._gathered)
        self._forget_gathered()
        self._start(self._submit(requests, lines), requests)

    def _forget_gathered(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._gathered, self._bytes = [], 0

    def _start(self, work: Coroutine[Any, Any, None], requests: Sequence[RequestKey]) -> None:
        """Work at a batch in the background; what goes wrong is told to all that wait for it."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                failure = error
                if not self._client.closing.is_set():
                    self._resolve(requests, lambda _: failure)

        task = asyncio.create_task(guarded())
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _resolve(self, requests: Sequence[RequestKey], outcome: Callable[[str], _Outcome]) -> None:
        for request in requests:
            waiting = self._waiting.get(request.key)
            if waiting is not None and not waiting.done():
                waiting.set_result(outcome(request.key))

    async def _submit(self, requests: list[RequestKey], lines: bytes) -> None:
        await self._connected()
        batch = Batch(await self._client.upload(lines), None, time.time(), requests)
        await self._store.persist_batch(batch, self._endpoint)
        await self._make(batch)
        await self._follow(batch)

    async def _make(self, batch: Batch) -> None:
        keys = [request.key for request in batch.requests]
        batch.id = await self._client.create(batch.file, batch.created, keys)
        await self._store.persist_batch(batch, self._endpoint)
        self._client.say(f"batch {batch.id}: {len(batch.requests):,} requests submitted")

    async def _resume(self, batch: Batch) -> None:
        """Go on with a batch that an earlier run noted."""
        await self._connected()
        try:
            if batch.requests and await self._exists(batch):
                await self._follow(batch)
            else:
                await self._drop(batch)
        except UnknownResource as error:
            if _age_h(batch) >= self._options.give_up_h:
                self._client.say(
                    f"batch {batch.id} is not known any more: its requests are asked anew"
                )
                await self._drop(batch)
                return
            failure = UserError(
                f"batch {batch.id}, which an earlier run sent: {error}. Is the key of another "
                "project? Its requests are paid for and are not sent again before they are "
                f"{self._options.give_up_h:g} hours old (give_up_h)"
            )
            self._client.say(str(failure))  # the run may have no use for it, and end well
            raise failure from error

    async def _exists(self, batch: Batch) -> bool:
        """Return whether there is a batch: the run may have been killed before it was made."""
        if batch.id is None:
            keys = [request.key for request in batch.requests]
            batch.id = await self._client.find(batch.file, batch.created, keys)
            if batch.id is None:  # it may have been on its way at that moment
                await self._client.sleep(self._options.poll_s)
                batch.id = await self._client.find(batch.file, batch.created, keys)
            if batch.id is not None:
                await self._store.persist_batch(batch, self._endpoint)
        return batch.id is not None

    async def _drop(self, batch: Batch) -> None:
        await self._store.end_batch(batch.file)
        self._resolve(batch.requests, lambda _: None)

    async def _follow(self, batch: Batch) -> None:
        """Wait until a batch has ended and hand its answers out."""
        alone = 0
        while (ended := await self._end_of(batch))["status"] == "failed":
            alone = 0 if self._submitted else alone + 1
            await self._await_room(batch, ended, alone)
            await self._make(batch)
        lines: dict[str, ResultLine] = {}
        for name in ("error_file_id", "output_file_id"):
            if ended.get(name):
                # Beside the store, where gigabytes have room.
                folder = self._store.path.parent
                lines |= await self._client.download(str(ended[name]), folder)
        status = ended["status"]
        answered = [r for r in batch.requests if r.key in lines and lines[r.key].good]
        self._collected.append((batch, answered))
        self._client.say(
            f"batch {batch.id}: {status}, {len(answered)} of {len(batch.requests)} answered"
        )
        self._resolve(batch.requests, lambda key: lines.get(key) or _left_over(status))
        await self._end_settled()

    async def _end_of(self, batch: Batch) -> dict[str, Any]:
        """Return a batch as it ended; cancelled where it takes too long."""
        id, last_line, told_at, cancelled = str(batch.id), "", 0.0, False
        self._submitted[id] = batch
        while True:
            state = await self._client.retrieve(id)
            status, counts = state.get("status"), state.get("request_counts") or {}
            late = _age_h(batch) > self._options.give_up_h
            # Answers without a file of them are to come: what is missing would be bought again.
            whole = late or not counts.get("completed") or state.get("output_file_id")
            if status in _ENDED and (whole or status == "failed"):
                del self._submitted[id]
                return state
            line = (
                f"batch {id}: {status}, {counts.get('completed', 0)} of {len(batch.requests)} "
                f"answered, {counts.get('failed', 0)} failed"
            )
            if line != last_line and time.monotonic() - told_at > _TELL_EVERY_S:
                last_line, told_at = line, time.monotonic()
                self._client.say(line)
            if late and not cancelled:
                cancelled = True
                self._client.say(f"batch {id}: cancelled after {self._options.give_up_h:g} hours")
                await self._client.cancel(id)
            await self._client.sleep(self._options.poll_s)

    async def _await_room(self, batch: Batch, failed: dict[str, Any], alone: int) -> None:
        """Return when a batch that failed may be made again; raise where it may not.

        `alone` is how often it failed in a row with no other of ours to wait for: the others may
        have ended a moment ago, or be another run's.
        """
        errors = ((failed.get("errors") or {}).get("data") or [{}])[:3]
        codes = " ".join(str(error.get("code")) for error in errors)
        reasons = "; ".join(" ".join(str(e.get("message")).split())[:300] for e in errors)
        if "token_limit" in codes and alone < _ALONE:
            self._client.say(f"batch {batch.id}: waits for room ({reasons})")
            await self._client.sleep(10 * self._options.poll_s)
            return
        await self._store.end_batch(batch.file)
        where = f"{self._config.base_url}: batch {batch.id} failed"
        if "token_limit" in codes:
            raise Unfinished(f"{where}: {reasons}; lower max_requests, or wait for other batches")
        if "quota" in codes or "billing" in codes:
            raise Unfinished(f"{where}: the balance or quota is used up: {reasons}")
        raise UserError(f"{where}: {codes}: {reasons}")

    def _of_batch(self, completion: dict[str, Any], request: Request) -> dict[str, Any] | bytes:
        """Return the completion that a line of the answers holds."""
        return completion

    def _answer(self, outcome: ResultLine | Exception, request: Request) -> dict[str, Any] | bytes:
        """Return what a line of the answers holds, or raise what it stands for."""
        if isinstance(outcome, Exception):
            raise copy.copy(outcome)  # one may be for thousands, and each adds its traceback
        line = self._client.read(outcome)
        response, error = line.get("response"), line.get("error")
        response = response if isinstance(response, dict) else {}
        status, body = response.get("status_code"), response.get("body")
        headers = response.get("headers")
        if status == 200 and isinstance(body, dict):
            try:
                check_answer(body)
            except RetryableError as problem:
                raise _left_over(problem.reason) from problem
            return self._of_batch(body, request)
        if not isinstance(status, int) or status == 200:
            if isinstance(error, dict):
                error = error.get("message") or error.get("code")
            raise _left_over(" ".join(str(error).split())[:300])
        failure = self._errors.error(status, headers or {}, json.dumps(body).encode())
        raise _left_over(failure.reason) if isinstance(failure, RetryableError) else failure

    async def _keep_unasked(self) -> None:
        """Store the answers that came and that this run had no use for: they are paid for."""
        kept, price = 0, price_of(self._config)
        for batch, answered in self._collected:
            for request in answered:
                waiting = self._waiting.get(request.key)
                line = waiting.result() if waiting is not None and waiting.done() else None
                if not isinstance(line, ResultLine):
                    continue
                asked_for = asked(request)
                try:
                    raw, body, labels = parse_answer(self._answer(line, asked_for), asked_for)
                except (RetryableError, RequestRejected, DistillError):
                    continue
                latency = time.time() - batch.created
                metadata = ResponseMetadata(self._run, self._name, *usage_of(raw, price), latency)
                await self._store.persist(request, body, metadata, labels)
                kept += 1
        if kept:
            self._client.say(
                f"{kept:,} answers of earlier batches were not asked for, and are stored"
            )

    async def _end_settled(self) -> None:
        """Forget the batches whose answers are all in the store."""
        settled = [b for b, answered in self._collected if not self._store.unanswered(answered)]
        self._collected = [entry for entry in self._collected if entry[0] not in settled]
        for batch in settled:
            await self._store.end_batch(batch.file)

    def _tell_left(self) -> None:
        for id, batch in self._submitted.items():
            self._client.say(
                f"batch {id} ({len(batch.requests):,} requests) goes on at the provider; "
                "the next run collects it and asks none of it again"
            )
        self._submitted.clear()


def _age_h(batch: Batch) -> float:
    return (time.time() - batch.created) / 3600


def _left_over(why: str) -> RetryableError:
    # For the lane no sign of trouble: all that a batch left over comes in one moment.
    return RetryableError(f"left over by a batch: {why}", trouble="malformed")


def asked(request: RequestKey) -> Request:
    """Return the request again, from what was hashed for its key."""
    body = json.loads(request.body.decode("utf-8", "surrogatepass"))
    return Request(body["messages"], body["sampling"], body["sample"])
