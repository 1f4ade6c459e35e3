"""Synchronous client of the teachers, for filters that ask a model from any thread."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from synth.core.errors import UserError, nearest
from synth.core.record import Message, Request
from synth.generate.client import ResponseClient, RunStopping
from synth.generate.concurrency import TeacherClosed
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.store.responses import ResponseStore
from synth.teachers import RequestRejected


class SyncClient:
    """Asks teachers over the response store, as the generation does; call it to ask.

    A thread with an event loop of its own starts at the first question. Equal questions that come
    at the same time are asked once. Prompt, sampling and samples of the specification are not used.
    """

    def __init__(self, store: Path, ask: GenerationSpec) -> None:
        self.counts = GenerationStats()
        self._path, self._ask = store, ask
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._under_way: dict[str, asyncio.Task[str]] = {}

    def __call__(
        self, teacher: str, messages: list[Message], sampling: dict[str, Any], sample: int
    ) -> str:
        """Return the answer's text, without reasoning.

        Raises:
            UserError: There is no such teacher, or it cannot be asked (wrong key, address, model).
            Unfinished: A cap is reached, the teacher is given up, or the store's disk is full.
            RuntimeError: This request failed for good.
        """
        if teacher not in self._ask.teachers:
            raise UserError(f"no teacher {teacher!r}{nearest(teacher, self._ask.teachers)}")
        request = Request(messages, sampling, sample)
        work = self._answer(teacher, request)
        return asyncio.run_coroutine_threadsafe(work, self._started()).result()

    def close(self) -> None:
        """Wait for what is under way and give everything back; a later question starts anew."""
        with self._starting:
            loop, thread, self._loop = self._loop, self._thread, None
            if loop is None or thread is None:
                return
            asyncio.run_coroutine_threadsafe(self._end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=loop.run_forever, name="asking", daemon=True)
                self._thread.start()
                try:
                    asyncio.run_coroutine_threadsafe(self._begin(), loop).result()
                except BaseException:
                    loop.call_soon_threadsafe(loop.stop)
                    raise
                self._loop = loop
            return self._loop

    async def _begin(self) -> None:
        self._store = ResponseStore(self._path)
        for teacher in self._ask.teachers.values():
            teacher.open(self._store, self._ask.run)
        self._client = ResponseClient(self._ask, self._store, self.counts)

    async def _end(self) -> None:
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        for teacher in self._ask.teachers.values():
            await teacher.close()
        self._store.close()

    async def _answer(self, teacher: str, request: Request) -> str:
        key = repr((teacher, request))
        if key not in self._under_way:
            self._under_way[key] = asyncio.ensure_future(self._reply(teacher, request))
            self._under_way[key].add_done_callback(lambda _: self._under_way.pop(key))
        return await self._under_way[key]

    async def _reply(self, teacher: str, request: Request) -> str:
        try:
            reply = await self._client.fetch(teacher, request)
        except RequestRejected as error:
            raise RuntimeError(str(error)) from error
        except TeacherClosed as error:
            raise error.error from error
        except RunStopping as error:
            assert self._client.stop is not None
            raise self._client.stop from error
        return reply.parsed[1]
