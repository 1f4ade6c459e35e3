"""A model behind `vllm serve`, which is started here, in this environment or in another one.

The server listens on a free port of the loopback address, with a key made for this run. It is
started by the first request, started again when it dies, and ended with the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from synth.core.errors import DistillError, Unfinished, UserError
from synth.core.record import Request
from synth.teachers import openai
from synth.teachers._response import with_labels
from synth.teachers._vllm import serve as _serve
from synth.teachers._vllm.options import (
    EngineTeacher,
    Options,
    cache_folder,
    check_parameters,
    lacking,
    last_line,
    say,
    sockets_folder,
    tail,
    weights,
)
from synth.teachers._vllm.process_guard import Guard, kill_all
from synth.teachers.base import RetryableError

_SAY_EVERY_S = 15.0


class Config(Options):
    """A causal language model with a chat template, in a vLLM server of our own."""

    python: str | None = Field(
        None, description="Python of another environment that has vLLM; this one's by default"
    )
    environment: str | None = Field(
        None, description="Folder of that environment (python is its bin/python)"
    )
    timeout_s: float = Field(3600.0, gt=0, description="Seconds for one whole answer")
    start_timeout_s: float = Field(
        3600.0, gt=0, description="Seconds until the server must be ready, downloads included"
    )
    restarts: int = Field(
        3, ge=0, description="How often it is started again with no answer in between"
    )

    @model_validator(mode="after")
    def _one_python(self) -> Config:
        if self.python and self.environment:
            raise ValueError("python and environment name the same thing; set one of them")
        return self

    def interpreter(self) -> str:
        """Return the Python that runs the server."""
        if self.environment:
            return str(Path(self.environment).expanduser() / "bin" / "python")
        return str(Path(self.python).expanduser()) if self.python else sys.executable


def check(config: Config) -> list[str]:
    """Return what this machine lacks to run the teacher; empty where nothing is missing."""
    python = config.interpreter()
    if shutil.which(python) is None:
        return [f"the model {config.model}: there is no Python at {python}"]
    return lacking(config, vllm_here=python == sys.executable)


def build(config: Config, name: str) -> VllmServerTeacher:
    """Build the teacher; the server is started by its first request."""
    return VllmServerTeacher(config, name)


@dataclass(slots=True)
class _Running:
    """A server that answers, and what it knows."""

    process: subprocess.Popen[bytes]
    teacher: openai.OpenAITeacher
    url: str
    known: set[str]


class VllmServerTeacher(EngineTeacher):
    """The client of a server that the first request starts."""

    def __init__(self, config: Config, name: str) -> None:
        super().__init__(config, name)
        self._config = config
        self._starting = asyncio.Lock()
        self._running: _Running | None = None
        self._stopped = False
        self._deaths = 0  # with no answer in between
        self._ever_died = False

    async def complete(self, request: Request) -> dict[str, Any] | bytes:
        """Answer one request, after waiting for the server where it is being started."""
        running = await self._server()
        check_parameters(request.sampling, running.known, self._name)
        width = request.sampling.get("top_logprobs")
        if width:
            # The token that was drawn takes a place among the likeliest: one more to lose none.
            sampling = {**request.sampling, "top_logprobs": width + 1}
            request = Request(request.messages, sampling, request.sample, request.task)
        try:
            answer = await running.teacher.complete(request)
        except RetryableError as failure:
            if failure.trouble != "outage" or await self._is_well(running):
                raise
            raise RetryableError(f"vLLM server died: {failure.reason}") from failure
        self._deaths = 0
        return with_labels(answer, width=width) if width else answer

    async def _server(self) -> _Running:
        """Return the server, started (again) where there is none."""
        async with self._starting:
            if self._broken is not None:
                raise self._broken
            try:
                if self._running is not None and self._running.process.poll() is not None:
                    await self._bury(self._running)
                while self._running is None:
                    try:
                        self._running = await self._start()
                    except UserError as error:
                        if not self._ever_died:
                            raise
                        self._count_death(str(error))
            except DistillError as error:
                self._broken = error
                raise
            return self._running

    async def _bury(self, running: _Running) -> None:
        """Clear away a server that died. Raises Unfinished where that happens again and again."""
        status = running.process.poll() or 0
        how = f"by signal {-status}" if status < 0 else f"with status {status}: {tail(self._log)}"
        await self._end(running.process, grace_s=0)
        await running.teacher.close()
        self._running, self._ever_died = None, True
        self._count_death(f"its vLLM server died {how}")

    def _count_death(self, how: str) -> None:
        self._deaths += 1
        say(f"teacher {self._name}: {how}")
        if self._deaths > self._config.restarts:
            raise Unfinished(
                f"its vLLM server died {self._deaths} times with no answer in between; at last: "
                f"{how}\nIts log is {self._log}; a rerun goes on from here"
            )

    async def _start(self) -> _Running:
        model = await asyncio.to_thread(weights, self._config.model)
        port, key = _free_port(), secrets.token_urlsafe(32)
        say(
            f"teacher {self._name}: starting a vLLM server for {self._config.model} "
            f"(log: {self._log})"
        )
        # The key goes by the environment: anyone on the machine can read a command line.
        environment = os.environ | {
            "VLLM_API_KEY": key,
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_RPC_BASE_PATH": sockets_folder(),
        }
        self._guard = self._guard or Guard()
        with self._log.open("ab") as log:
            try:
                process = subprocess.Popen(
                    self._command(model, port),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # a group of its own, out of reach of Ctrl-C
                )
            except OSError as error:
                raise UserError(f"cannot run {self._config.interpreter()}: {error}") from error
        self._guard.watch(process.pid)
        url = f"http://127.0.0.1:{port}"
        try:
            await self._ready(process, url)
            described = json.loads(await asyncio.to_thread(_get, f"{url}/openapi.json"))
            known = described["components"]["schemas"]["ChatCompletionRequest"]["properties"]
        except BaseException:
            await self._end(process, grace_s=0)
            raise
        settings = openai.Config(
            model=self._config.model, base_url=f"{url}/v1", timeout_s=self._config.timeout_s
        )
        return _Running(process, openai.OpenAITeacher(settings, key), url, set(known))

    def _command(self, model: str, port: int) -> list[str]:
        config = self._config
        arguments = {
            "disable_log_stats": True,
            "disable_uvicorn_access_log": True,
            **config.arguments(),
            "host": "127.0.0.1",
            "port": port,
            "served_model_name": config.model,
            "reasoning_parser": config.reasoning_parser,
        }
        if config.chat_template is not None:
            file = cache_folder("templates") / f"{self.identity['chat_template']}.jinja"
            file.write_text(config.chat_template, encoding="utf-8")
            arguments["chat_template"] = str(file)
        command = [config.interpreter(), _serve.__file__, "serve", model]
        for key, value in arguments.items():
            name = key.replace("_", "-")
            if value is True:
                command.append(f"--{name}")
            elif value is False:
                command.append(f"--no-{name}")
            elif value is not None:
                command.append(f"--{name}={value if isinstance(value, str) else json.dumps(value)}")
        return command

    async def _ready(self, process: subprocess.Popen[bytes], url: str) -> None:
        """Wait until the server answers, saying now and then what it does."""
        began = told_at = time.monotonic()
        while True:
            if process.poll() is not None:
                raise UserError(
                    f"the vLLM server for {self._config.model} does not start: {tail(self._log)}\n"
                    f"Its log is {self._log}"
                )
            if self._stopped:
                raise Unfinished("the run was stopped while its vLLM server started")
            if await asyncio.to_thread(_answers, url):
                break
            now = time.monotonic()
            if now - began > self._config.start_timeout_s:
                raise UserError(
                    f"the vLLM server for {self._config.model} is not ready after "
                    f"{now - began:.0f} s (start_timeout_s): {tail(self._log)}"
                )
            if now - told_at > _SAY_EVERY_S:
                told_at = now
                say(f"teacher {self._name}: {now - began:.0f} s: {last_line(self._log)}")
            await asyncio.sleep(0.25)
        say(f"teacher {self._name}: ready in {time.monotonic() - began:.0f} s")

    async def _is_well(self, running: _Running) -> bool:
        """Return whether the server still answers; end one that does not, so that all see it."""
        for _ in range(3):
            if running.process.poll() is not None:
                return False
            if await asyncio.to_thread(_answers, running.url):
                return True
            await asyncio.sleep(1)
        kill_all(running.process.pid)
        await asyncio.to_thread(running.process.wait)
        return False

    async def _end(self, process: subprocess.Popen[bytes], grace_s: float) -> None:
        """End a server and all its processes: asked first, then killed."""
        if grace_s and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, grace_s)
        kill_all(process.pid)  # its processes outlive it when it is killed itself
        await asyncio.to_thread(process.wait)
        if self._guard is not None:
            self._guard.forget(process.pid)

    def cancel_pending(self) -> None:
        """Wait no longer for a server that is not ready: the run stops."""
        self._stopped = True

    async def close(self) -> None:
        """End the server and all its processes. The log stays where it died on the way."""
        running, self._running = self._running, None
        if running is not None:
            await running.teacher.close()
            await self._end(running.process, grace_s=10)
            if not self._ever_died:
                self._log.unlink(missing_ok=True)
        await self._close_guard()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# What is on this machine is not asked through a proxy.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _get(url: str) -> bytes:
    with _direct.open(url, timeout=10) as response:
        return bytes(response.read())


def _answers(url: str) -> bool:
    try:
        _get(f"{url}/health")
    except OSError:
        return False
    return True
