"""Client of one address: sends requests through aiohttp, and reads bodies and streams of events."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, Protocol

from synth.core.compression import parse_json
from synth.teachers._http.events import DONE, Event, EventParser
from synth.teachers._http.options import HttpConfig
from synth.teachers._response import malformed
from synth.teachers.base import RetryableError

if TYPE_CHECKING:
    import aiohttp

# 32,768 tokens with the log-probabilities of twenty at each take a sixth of that.
LARGEST_ANSWER = 256 * 1024 * 1024
_READING_S = 0.5  # so long what came in time may be read when the time is over, see `_TimeLimit`
_END_S = 1.0  # so long the end of a body is waited for after the last event of a stream


class StreamJoiner(Protocol):
    """Makes one answer of the events of a stream."""

    def add(self, name: str, values: dict[str, Any]) -> bool:
        """Take one event, JSON read; return whether it is the last of the stream."""
        ...

    def result(self) -> dict[str, Any] | None:
        """Return the whole answer, or None where the stream was cut before its end."""
        ...


class HttpClient:
    """Sends JSON to one address and returns status, headers and body.

    What goes wrong on the way is a `RetryableError`; no message holds a secret. Making one loads
    all that the first request needs, which takes a while.
    """

    def __init__(self, config: HttpConfig, headers: Mapping[str, str], secrets: list[str]) -> None:
        import ssl

        import aiohttp  # noqa: F401
        import certifi

        self._config, self._headers = config, dict(headers)
        self._secrets = [secret.encode() for secret in secrets if secret]
        self._session: aiohttp.ClientSession | None = None
        self._verify = ssl.create_default_context(
            cafile=None if os.environ.get("SSL_CERT_FILE") else certifi.where()
        )

    async def post(
        self, url: str, body: bytes, joiner: Callable[[], StreamJoiner]
    ) -> tuple[int, Mapping[str, str], bytes | dict[str, Any]]:
        """Send one request; return status, headers, and the body or the stream's whole answer."""
        answer: bytes | dict[str, Any]
        with self._failures():
            async with (
                _TimeLimit(self._config.timeout_s),
                self._sent("POST", url, data=body) as response,
            ):
                if response.status == 200 and _is_stream(response, self._config.stream):
                    answer = await _read_stream(response, joiner())
                else:
                    answer = await self._body(response)
        return response.status, response.headers, answer

    async def request(
        self, method: str, url: str, data: bytes | None = None, **headers: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send one request with headers of its own (`_` for `-`); return status, headers, body."""
        own = {name.replace("_", "-"): value for name, value in headers.items()}
        timeout = self._timeout_of_files()
        with self._failures():
            sent = self._sent(method, url, data=data, headers=own, timeout=timeout)
            async with sent as response:
                return response.status, response.headers, await self._body(response)

    async def download(self, url: str, file: IO[bytes]) -> tuple[int, Mapping[str, str], bytes]:
        """Write a body of status 200 into a file; return status, headers, and any other body."""
        of_the_disk: OSError | None = None
        with self._failures():
            async with self._sent("GET", url, timeout=self._timeout_of_files()) as response:
                if response.status != 200:
                    return response.status, response.headers, await self._body(response)
                file.seek(0)
                file.truncate()
                async for chunk in response.content.iter_chunked(1 << 20):
                    try:
                        file.write(chunk)
                    except OSError as error:
                        of_the_disk = error
                        break
        if of_the_disk is not None:
            raise of_the_disk
        return response.status, response.headers, b""

    def _timeout_of_files(self) -> aiohttp.ClientTimeout:
        """Return a limit without a byte: a file may take as long as it is large."""
        import aiohttp

        return aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=self._config.timeout_s)

    def _sent(
        self, method: str, url: str, **options: Any
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send one request."""
        if self._session is None:
            self._session = self._open()
        query = self._config.query or None
        return self._session.request(method, url, params=query, allow_redirects=False, **options)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Make a `RetryableError` of what goes wrong between a request and the end of its body."""
        import aiohttp

        config = self._config
        try:
            yield
        except aiohttp.SocketTimeoutError as error:
            after = f"{config.idle_timeout_s or config.timeout_s:g} s"
            raise RetryableError(f"timeout: nothing came for {after} (idle_timeout_s)") from error
        except TimeoutError as error:
            raise RetryableError(f"timeout: no answer in {config.timeout_s:g} s") from error
        except aiohttp.ClientConnectorError as error:
            cause = " ".join(str(error).replace("ssl:default ", "").split())[:200]
            reason = f"cannot reach {config.base_url}: {cause}"
            raise RetryableError(reason, unreachable=True) from error
        except (aiohttp.ClientError, OSError) as error:
            cause = " ".join(str(error).split())[:200] or type(error).__name__
            cause = self._clean(cause.encode("utf-8", "replace")).decode("utf-8", "replace")
            raise RetryableError(f"connection cut: {cause}") from error

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        """Read a body; one that is no answer is freed of the secrets that it echoes."""
        body = await _read(response)
        return body if response.status == 200 else self._clean(body)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _clean(self, text: bytes) -> bytes:
        """Return a text without the secrets: some servers echo them in their messages."""
        for secret in self._secrets:
            text = text.replace(secret, b"***")
        return text

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        config = self._config
        return aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_read=config.idle_timeout_s if config.stream else None
            ),
            # The lanes bound what is in flight; a pool of a hundred would do it a second time.
            connector=aiohttp.TCPConnector(limit=0, ssl=self._verify, keepalive_timeout=60),
            # Looked up anew for each request, so only where there is a proxy to be found.
            trust_env=any(name.lower().endswith("_proxy") for name in os.environ),
            cookie_jar=aiohttp.DummyCookieJar(),
        )


class _TimeLimit:
    """Raises TimeoutError where its block takes longer than so many seconds.

    A process that was held up (by Ctrl-Z, or on a busy machine) finds the time over and, unread,
    the answer that came in time and is paid for. It may read for as long as it was late, and for
    half a second at least.
    """

    __slots__ = ("_limit", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds, self._limit = seconds, asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        self._timer = loop.call_at(end, self._over, loop, end)

    async def __aexit__(self, *raised: Any) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(*raised)

    def _over(self, loop: asyncio.AbstractEventLoop, end: float) -> None:
        now = loop.time()
        self._limit.reschedule(now + max(_READING_S, now - end))


def _is_stream(response: aiohttp.ClientResponse, asked: bool) -> bool:
    """Return whether a body is a stream of events: it says so, or was asked for and is no JSON."""
    kind = response.content_type
    return kind == "text/event-stream" or (asked and not kind.endswith("json"))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read the whole body; one that does not end is not read to the end of memory."""
    length = response.content_length
    if length is not None and length <= LARGEST_ANSWER:
        return await response.read()
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > LARGEST_ANSWER:
            raise malformed(f"more than {LARGEST_ANSWER >> 20} MiB")
    return b"".join(parts)


async def _read_stream(response: aiohttp.ClientResponse, joiner: StreamJoiner) -> dict[str, Any]:
    """Read a stream to its last event and return the whole answer; a cut one is never whole."""
    import aiohttp

    parser, size, ended = EventParser(), 0, False
    async for part in response.content.iter_any():
        size += len(part)
        if size > LARGEST_ANSWER:
            raise malformed(f"more than {LARGEST_ANSWER >> 20} MiB")
        for event in parser.feed(part):
            ended = ended or joiner.add(event.name, _values(event))
        if ended:
            break
    if ended:  # the connection serves again, unless the server keeps it open after the last event
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(_END_S):
                async for _ in response.content.iter_any():
                    pass
    else:
        for event in parser.close():
            joiner.add(event.name, _values(event))
    if (answer := joiner.result()) is None:
        raise RetryableError("connection cut: the stream ended before the answer did")
    return answer


def _values(event: Event) -> dict[str, Any]:
    """Return the JSON object of an event; `[DONE]` is an empty one, named so."""
    if event.name == DONE:
        return {}
    try:
        values = parse_json(event.data)
    except ValueError as error:
        raise malformed("an event of the stream is no JSON, or is cut") from error
    if not isinstance(values, dict):
        raise malformed("an event of the stream is no JSON object")
    return values
