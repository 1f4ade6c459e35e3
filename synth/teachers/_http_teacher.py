"""Base class of the teachers behind an HTTP API that answers each request with JSON or a stream."""

from __future__ import annotations

import abc
import asyncio
import json
from collections.abc import Mapping
from typing import Any

from synth.core.record import Request
from synth.teachers._http.client import HttpClient, StreamJoiner
from synth.teachers._http.options import HttpConfig
from synth.teachers._openai.error_inside import InnerError, error_inside
from synth.teachers._openai.status import StatusErrors
from synth.teachers._openai.waits import REMAINING, advertised
from synth.teachers.base import Teacher


class HttpTeacher(Teacher):
    """One model behind an HTTP API; `key` is the API's, or None.

    A kind says where requests go (`_address`), what they hold (`_body`), how a stream is joined
    (`_joiner`) and what chat completion an answer is (`_completion`).
    """

    def __init__(self, config: HttpConfig, key: str | None) -> None:
        self._config, self._key = config, key
        self._errors = StatusErrors(config.base_url, config.model, key, config.api_key_env)
        self._secret_headers = config.secret_headers()
        self._client_of_answers: HttpClient | None = None
        self._url = ""
        self.longest_s = config.timeout_s

    @property
    def name(self) -> str:
        """Its name in the config."""
        return self._errors.teacher

    @name.setter
    def name(self, name: str) -> None:
        self._errors.teacher = name

    async def complete(self, request: Request) -> dict[str, Any] | bytes:
        """Send one request and return the answer as a chat completion."""
        values = self._body(request)
        if self._config.stream:
            values = self._streamed(values)
        client = self._client_of_answers or await self._connected()
        body = json.dumps(values).encode()
        status, headers, answer = await client.post(self._url, body, self._joiner)
        if any(name in headers for name in REMAINING):
            self.advertised = advertised(headers)
        if status != 200:
            assert isinstance(answer, bytes)
            raise self._errors.error(status, headers, answer)
        if inner := self._error_inside(answer):
            headers = {name.lower(): value for name, value in headers.items()}
            raise self._errors.error(inner.status, {**headers, **inner.headers}, inner.body)
        return self._completion(answer, request)

    async def close(self) -> None:
        """Close the connections."""
        if self._client_of_answers is not None:
            await self._client_of_answers.close()
            self._client_of_answers = None

    async def _connected(self) -> HttpClient:
        """Return the client; made in a thread, for the import of an SDK takes seconds.

        Answers to other teachers come meanwhile, and Ctrl-C is heard.
        """
        client: HttpClient = await asyncio.to_thread(self._http)
        return client

    def _http(self) -> HttpClient:
        """Return the client; the first call makes it."""
        if self._client_of_answers is not None:
            return self._client_of_answers
        self._url, headers = self._address()
        own = {**self._config.headers, **self._secret_headers}
        named = {name.lower() for name in own}
        kept = {name: value for name, value in headers.items() if name.lower() not in named}
        secrets = [self._key or "", *self._secret_headers.values()]
        client = HttpClient(self._config, {**kept, **own}, secrets)
        # Of two threads that made one at the same time, both take the first.
        self._client_of_answers = self._client_of_answers or client
        return self._client_of_answers

    @abc.abstractmethod
    def _address(self) -> tuple[str, Mapping[str, str]]:
        """Return where requests go, and the headers that the API asks for."""

    @abc.abstractmethod
    def _body(self, request: Request) -> dict[str, Any]:
        """Return what is sent for a request."""

    def _streamed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return what is sent where the answer is to come as a stream."""
        return {**body, "stream": True}

    def _error_inside(self, answer: bytes | dict[str, Any]) -> InnerError | None:
        """Return the error that an answer of status 200 holds, by OpenAI's dialect."""
        return error_inside(answer)

    @abc.abstractmethod
    def _joiner(self) -> StreamJoiner:
        """Return what makes one answer of a stream's events."""

    @abc.abstractmethod
    def _completion(
        self, answer: bytes | dict[str, Any], request: Request
    ) -> dict[str, Any] | bytes:
        """Return an answer as a chat completion."""
