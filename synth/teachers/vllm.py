"""A model that vLLM runs inside this process, through its asynchronous engine.

Chats are rendered, parameters read and reasoning parsed as by vLLM's own server, so that
`vllm_server` gives the same answers. The engine is loaded by the first request, so a run that the
response store answers in full never loads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from synth.core.errors import MissingPackage, Unfinished, UserError
from synth.core.logprobs import TopLogprobs
from synth.core.record import Request
from synth.teachers._vllm.options import (
    EngineTeacher,
    Options,
    cause,
    check_parameters,
    say,
    sockets_folder,
    tail,
    weights,
)
from synth.teachers._vllm.options import lacking as check
from synth.teachers._vllm.process_guard import Guard
from synth.teachers._vllm.serve import check_arguments
from synth.teachers.base import RequestRejected, RetryableError

__all__ = ["Config", "VllmTeacher", "build", "check"]


class Config(Options):
    """A causal language model with a chat template, in vLLM's engine."""


def build(config: Config, name: str) -> VllmTeacher:
    """Build the teacher; nothing heavy is loaded before its first request."""
    return VllmTeacher(config, name)


@dataclasses.dataclass(slots=True)
class _Loaded:
    """vLLM's own objects: the engine, what renders chats for it, and what it can be asked."""

    engine: Any
    renderer: Any
    known: set[str]
    defaults: dict[str, Any]


class VllmTeacher(EngineTeacher):
    """The engine in this process, loaded by the first request."""

    def __init__(self, config: Config, name: str) -> None:
        super().__init__(config, name)
        self._config = config
        self._loading = asyncio.Lock()
        self._loaded: _Loaded | None = None
        self._processes: list[BaseProcess] = []

    async def complete(self, request: Request) -> dict[str, Any]:
        """Answer one request as soon as the engine has; a cancelled one is taken out of it."""
        async with self._loading:
            if self._broken is not None:
                raise self._broken
            if self._loaded is None:
                self._guard = self._guard or Guard()
                try:
                    self._loaded = await asyncio.to_thread(self._load, self._guard)
                except UserError as error:
                    self._broken = error
                    raise
        loaded = self._loaded
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        check_parameters(request.sampling, loaded.known, self._name)
        try:
            return await self._ask(loaded, request)
        except EngineDeadError as error:
            self._broken = Unfinished(
                f"the vLLM engine died{await asyncio.to_thread(self._how)}\nIts log is "
                f"{self._log}. A rerun goes on from here; the teacher kind vllm_server would "
                "start it again by itself"
            )
            raise self._broken from error
        except EngineGenerateError as error:
            raise RetryableError(f"engine: {error.__cause__ or error}") from error

    def _how(self) -> str:
        """Return how the engine's processes ended, and why, as far as the log knows."""
        for process in self._processes:
            process.join(1)
        codes = [code for process in self._processes if (code := process.exitcode)]
        how = f" by signal {-codes[0]}" if codes and codes[0] < 0 else ""
        why = cause(self._log)
        return f"{how}: {why}" if why else how

    async def _ask(self, loaded: _Loaded, request: Request) -> dict[str, Any]:
        from pydantic import ValidationError
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse
        from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
        from vllm.exceptions import VLLMClientError

        sampling = dict(request.sampling)
        if "max_tokens" in sampling:  # its old name
            sampling["max_completion_tokens"] = sampling.pop("max_tokens")
        try:
            chat = ChatCompletionRequest(messages=request.messages, **sampling)
        except (ValidationError, VLLMClientError) as error:
            raise UserError(f"sampling: {_first_line(error)}") from error
        try:
            rendered = await loaded.renderer.render_chat(chat)
        except (ValueError, VLLMClientError) as error:  # too long, or not for this template
            raise RequestRejected(f"prompt: {_first_line(error)}") from error
        if isinstance(rendered, ErrorResponse):
            raise RequestRejected(f"prompt: {rendered.error.message}")
        prompt = rendered[1][0]
        ids = prompt["prompt_token_ids"]
        limit = get_max_tokens(
            loaded.engine.model_config.max_model_len,
            chat.max_completion_tokens,
            len(ids),
            loaded.defaults,
        )
        try:
            parameters = chat.to_sampling_params(limit, loaded.defaults)
        except (ValueError, VLLMClientError) as error:
            raise UserError(f"sampling: {_first_line(error)}") from error
        parameters.flat_logprobs = True  # arrays in place of an object a token
        parser, how = self._parser(loaded, chat, ids)
        outputs = []
        try:
            async for answer in loaded.engine.generate(prompt, parameters, uuid.uuid4().hex, **how):
                outputs = answer.outputs
        except (ValueError, VLLMClientError) as error:
            raise RequestRejected(f"request: {_first_line(error)}") from error
        if not outputs or outputs[0].finish_reason not in ("stop", "length"):
            raise RetryableError("engine: it gave the request up")
        return self._completion(chat, ids, outputs[0], parser)

    def _parser(self, loaded: _Loaded, chat: Any, ids: list[int]) -> tuple[Any, dict[str, Any]]:
        """Return what splits the answer, and what the engine is told of it."""
        if loaded.renderer.parser is None:
            return None, {}
        values = loaded.renderer.effective_chat_template_kwargs(chat)
        parser = loaded.renderer.parser(
            loaded.renderer.renderer.tokenizer,
            chat.tools,
            chat_template_kwargs=values,
            model_config=loaded.engine.model_config,
        )
        parser.set_prompt_token_ids(ids)
        return parser, {
            "reasoning_ended": chat.resolve_reasoning_ended(parser, ids),
            "reasoning_parser_kwargs": {"chat_template_kwargs": values},
        }

    def _completion(self, chat: Any, ids: list[int], output: Any, parser: Any) -> dict[str, Any]:
        message = {"role": "assistant", "content": output.text}
        if parser is not None:
            reasoning, content, _ = parser.parse(
                output.text, chat, model_output_token_ids=output.token_ids
            )
            message |= {"content": content, "reasoning": reasoning}
        raw: dict[str, Any] = {
            "object": "chat.completion",
            "model": self._config.model,
            "choices": [{"index": 0, "message": message, "finish_reason": output.finish_reason}],
            "usage": {
                "prompt_tokens": len(ids),
                "completion_tokens": len(output.token_ids),
                "total_tokens": len(ids) + len(output.token_ids),
            },
        }
        if chat.top_logprobs:
            raw["labels"] = _labels(output)
        return raw

    def _load(self, guard: Guard) -> _Loaded:
        """Start the engine; runs in a thread of its own, for it takes a minute."""
        if importlib.util.find_spec("vllm") is None:
            raise MissingPackage("vllm", f"the model {self._config.model}", "vllm")
        model, start, log = weights(self._config.model), time.monotonic(), self._log
        say(f"teacher {self._name}: vLLM is loading {self._config.model} (log: {log})")
        with _quiet(log), _watched(guard) as self._processes:
            try:
                loaded = self._start(model)
            except UserError:
                log.unlink(missing_ok=True)
                raise
            except Exception as error:
                why = tail(log) if "root cause" in str(error) else _first_line(error)
                raise UserError(
                    f"vLLM cannot load {self._config.model}: {why}\nIts log is {log}"
                ) from error
        say(f"teacher {self._name}: loaded in {time.monotonic() - start:.0f} s")
        return loaded

    def _start(self, model: str) -> _Loaded:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.platforms import current_platform
        from vllm.renderers.online_renderer import OnlineRenderer
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = {
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            **self._config.arguments(),
        }
        if self._config.reasoning_parser:
            arguments["reasoning_parser"] = self._config.reasoning_parser
        known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
        try:
            check_arguments(arguments, known, current_platform.is_cpu())
        except ValueError as error:
            raise UserError(str(error)) from error
        if current_platform.is_cpu():
            arguments["enable_chunked_prefill"] = False
        engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, **arguments))
        renderer = OnlineRenderer(
            model_config=engine.model_config,
            renderer=engine.renderer,
            request_logger=None,
            chat_template=self._config.chat_template,
            chat_template_content_format="auto",
            reasoning_parser=self._config.reasoning_parser,
        )
        return _Loaded(
            engine,
            renderer,
            set(ChatCompletionRequest.model_fields),
            engine.model_config.get_diff_sampling_param(),
        )

    async def close(self) -> None:
        """End the engine and everything that it started."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            healthy = not loaded.engine.errored
            await asyncio.to_thread(loaded.engine.shutdown)
            if healthy:
                self._log.unlink(missing_ok=True)
            # `__del__` calls it once more, when Python is half gone already, and shows a traceback.
            loaded.engine.shutdown = lambda: None
        await self._close_guard()


def _labels(output: Any) -> TopLogprobs:
    """Return the engine's log-probabilities: of the drawn token, then of the likeliest ones."""
    import numpy as np

    flat, count = output.logprobs, len(output.token_ids)
    ids = np.array(flat.token_ids, np.int32).reshape(count, -1)
    logprobs = np.array(flat.logprobs, np.float32).reshape(count, -1)
    return TopLogprobs(
        np.array(output.token_ids, np.int32), logprobs[:, 0], ids[:, 1:], logprobs[:, 1:]
    )


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 500 else text[:500] + " ..."


# The environment is the whole process's, so engines start one after the other.
_environment = threading.Lock()


@contextlib.contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """Send what vLLM says into a file, and keep a Ctrl-C on the terminal from its processes.

    They would stop at once, while the generation waits for what is in flight. A blocked signal is
    inherited by what this thread starts, and stays blocked there.
    """
    settings = log.with_suffix(".json")
    handler = {"class": "logging.FileHandler", "filename": str(log), "formatter": "plain"}
    logging = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(message)s"}},
        "handlers": {"file": handler},
        "loggers": {"vllm": {"handlers": ["file"], "level": "INFO", "propagate": False}},
    }
    changed = {
        "VLLM_LOGGING_CONFIG_PATH": str(settings),
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_RPC_BASE_PATH": sockets_folder(),
        "PYTHONWARNINGS": "ignore",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    with _environment:
        # Where `multiprocessing` starts its tracker on the way, that unblocks the signal again.
        resource_tracker.ensure_running()
        before = {key: os.environ[key] for key in changed.keys() & os.environ.keys()}
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        settings.write_text(json.dumps(logging))
        os.environ.update(changed)
        try:
            yield
        finally:
            os.environ.update(before)
            for key in changed.keys() - before.keys():
                del os.environ[key]
            settings.unlink()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def _watched(guard: Guard) -> Iterator[list[BaseProcess]]:
    """Put the engine's processes under guard as they appear: vLLM's do not end with this one.

    Yields the list that they are gathered in.
    """
    loaded = threading.Event()
    processes: list[BaseProcess] = []
    seen = {child.pid for child in multiprocessing.active_children()}  # other engines' among them

    def look() -> None:
        last = False
        while not last:
            last = loaded.wait(0.1)
            for child in multiprocessing.active_children():
                ours = child.name.startswith(("EngineCore", "VLLM"))
                if ours and child.pid and child.pid not in seen:
                    seen.add(child.pid)
                    processes.append(child)
                    guard.watch(child.pid)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield processes
    finally:
        loaded.set()
        thread.join()
