"""A model that runs inside this process, through Hugging Face transformers.

Requests that wait at the same time are decoded together on one worker thread. Prompts that begin
alike pay for that beginning once; a request that is done makes room for the next at once. The model
is loaded by the first request, so a run that the response store answers in full never loads it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any, Literal

from pydantic import Field

from synth.core import models
from synth.core.errors import UserError, lacks_package
from synth.core.record import Request, digest
from synth.teachers._transformers.batching import Loaded, Slots, Whole, choose_engine, settle
from synth.teachers._transformers.sampling import Row, Sampling, read_sampling
from synth.teachers.base import Teacher, TeacherConfig


class Config(TeacherConfig):
    """A causal language model with a chat template."""

    model: str = Field(description="A hub id, folder, .gguf file, or package:NAME/FILE")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Of the weights; auto: as stored (GGUF: float32). bfloat16 is faster than "
        "float32 on a processor with AMX or AVX512-BF16, and slower on one without",
    )
    device: str | None = Field(None, description="A torch device; the GPU where there is one")
    batch_size: int = Field(32, ge=1, description="Requests decoded together; costs memory")
    trust_remote_code: bool = Field(False, description="Run code that lies beside the weights")
    chat_template: str | None = Field(
        None, description="Text of a Jinja chat template in place of the model's own"
    )


def build(config: Config, name: str) -> TransformersTeacher:
    """Build the teacher; nothing heavy is loaded before its first request."""
    return TransformersTeacher(config, name)


def check(config: Config) -> list[str]:
    """Return what this machine lacks to run the teacher; empty where nothing is missing."""
    try:
        models.require_transformers(f"the model {config.model}")
        _, gguf = models.locate(config.model)
    except UserError as error:
        return [str(error)]
    return lacks_package("gguf", f"the model {config.model}", "train") if gguf else []


class TransformersTeacher(Teacher):
    """The teacher as the event loop sees it; all the work is the worker thread's."""

    empty_answers = True

    def __init__(self, config: Config, name: str) -> None:
        self._config, self._name = config, name
        self._inbox: _Inbox = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.identity: dict[str, Any] = {
            "kind": "transformers",
            "model": models.weights_identity(config.model),
            "dtype": config.dtype,
        }
        if config.chat_template is not None:
            self.identity["chat_template"] = digest(config.chat_template)

    async def complete(self, request: Request) -> dict[str, Any]:
        """Answer one request, together with all that wait at the same time."""
        sampling = read_sampling(request.sampling, self._name)
        if self._thread is None:
            # A daemon, so that a run that dies without `close` does not hang.
            args = (self._config, self._name, self._inbox)
            self._thread = threading.Thread(target=_work, args=args, daemon=True)
            self._thread.start()
        future: Future[dict[str, Any]] = Future()
        self._inbox.put((request, sampling, future))
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """Stop the worker after its current step; the model goes with it."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._inbox.put(None)
            await asyncio.to_thread(thread.join)


_Inbox = queue.SimpleQueue[tuple[Request, Sampling, Future[dict[str, Any]]] | None]


def _work(config: Config, name: str, inbox: _Inbox) -> None:
    """Take requests in and decode them, in the worker thread, until None comes in."""
    import torch

    loaded: Loaded | None = None
    engine: Slots | Whole | None = None
    waiting: deque[Row] = deque()
    while True:
        fresh = _drain(inbox, block=not waiting and not (engine and engine.taken))
        if None in fresh:
            for row in [*waiting, *(engine.taken if engine else [])]:
                row.future.cancel()
            for item in filter(None, fresh):
                item[2].cancel()
            return
        try:
            loaded = loaded or Loaded(
                name, **config.model_dump(exclude={"batch_size", *Config.shared()})
            )
        except Exception as error:
            for _, _, future in fresh:
                settle(future, error)
            continue
        for request, sampling, future in fresh:
            try:
                waiting.append(loaded.row(request, sampling, future))
            except Exception as error:
                settle(future, error)
        try:
            with torch.inference_mode():
                engine = engine or choose_engine(loaded, config.batch_size)
                engine.turn(waiting)
        except Exception as error:
            for row in engine.taken if engine else waiting:
                settle(row.future, _explained(error, name))
            if engine is None:
                waiting.clear()
            # What the failed step left in the key-value store is not to be relied on.
            engine = None


def _drain(inbox: _Inbox, block: bool) -> list[Any]:
    items = [inbox.get()] if block else []
    while not inbox.empty():  # nobody else takes from it
        items.append(inbox.get())
    return items


def _explained(error: Exception, name: str) -> Exception:
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error):
        return UserError(f"teacher {name}: out of memory; lower batch_size or max_tokens")
    return error
