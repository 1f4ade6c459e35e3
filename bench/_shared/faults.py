"""A real API on loopback that fails in every way that APIs do, and keeps account of all it did.

    with FaultServer(lambda ask: "500" if ask.attempt == 0 else "") as server:
        ...  # ask server.url; what was asked and served is in server.log

`plan(ask)` names the fault of each request ("" is an answer), by question, sample, attempt or
model. The log outlives the client: it is the client that tests kill.
"""

import asyncio
import contextlib
import email.utils
import hashlib
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass

from _shared.dialects import Events, asked_of, dialect_of, written

FIRST_SEED = 1000  # the config's generate.sampling.seed: the sample is what a request's is above it
CUT = object()  # the step that cuts the connection
LONG = 3600.0


@dataclass
class Asked:
    """A request that came, and what became of it.

    Attributes:
        attempt: How often the same sample of the same question had met what was to come before.
        met: The client was still there when what was to come began.
        whole: The response was sent to its last byte, to a client that was still there.
        answered: It was sent whole and is a chat completion, so it has to be stored.
        done: Nothing more happens to it.
        took_s: Seconds from the request to the end of the response.
    """

    question: str
    sample: int
    model: str
    attempt: int
    dialect: str = "openai"
    fault: str = ""
    met: bool = False
    whole: bool = False
    answered: bool = False
    done: bool = False
    took_s: float = 0.0

    @property
    def place(self):
        return self.question, self.sample


def text_of(question, sample):
    """The answer to a sample of a question: it names both, so that a mix-up shows."""
    return f"<think>as to [{question}] #{sample}</think>\\boxed{{{len(question)}}}"


def completion(ask, message=None, **changes):
    """A chat completion as bytes; `message` and the rest replace parts of a good one."""
    good = {"role": "assistant", "content": text_of(ask.question, ask.sample)}
    whole = {
        "id": f"{ask.question}-{ask.sample}-{ask.attempt}",
        "object": "chat.completion",
        "model": ask.model,
        "choices": [{"index": 0, "message": message or good, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
    }
    return written(ask.dialect, whole | changes)


def _choice(ask, finish):
    message = {"role": "assistant", "content": text_of(*ask.place)[:-3]}
    return {"index": 0, "message": message, "finish_reason": finish}


def response(status, body, content_type="application/json", **headers):
    """An HTTP response as bytes; `retry_after` becomes the header retry-after."""
    if isinstance(body, Events) and content_type == "application/json":
        content_type = "text/event-stream"
    lines = [f"HTTP/1.1 {status} Status", f"Content-Type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    return head.encode() + body


def refusal(status, message, code=None, **headers):
    body = {"error": {"message": message, "type": code, "code": code}}
    return response(status, json.dumps(body).encode(), **headers)


def _drip(ask):
    whole = response(200, completion(ask))
    for byte in whole[:100]:
        yield bytes([byte])
        yield 0.001
    yield whole[100:]


def _endless_drip(ask):
    yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999999\r\n\r\n"
    while True:
        yield b" "
        yield 0.05


def _in_a_second():
    return email.utils.formatdate(time.time() + 1, usegmt=True)


def _ok(make):
    """A step: a response of status 200 with a body made from the request."""
    return lambda ask: [response(200, make(ask))]


def _usage(value):
    return _ok(lambda ask: completion(ask, usage=value))


# What each fault sends: bytes, seconds to wait, or CUT.
# ANSWERS are odd, but they are answers: they are stored, and not asked again.
ANSWERS = {
    "": _ok(completion),
    "other model": _ok(lambda ask: completion(ask, model="another-model-0613")),
    "lone surrogate": _ok(
        lambda ask: completion(ask, {"content": f"{text_of(*ask.place)} \ud800 \x00"})
    ),
    "large body": _ok(lambda ask: completion(ask, {"content": text_of(*ask.place) + "x" * 2**22})),
    "wrong content type": lambda ask: [response(200, completion(ask), "text/html; charset=latin-1")],
    "slow drip": _drip,
    "limit headers": lambda ask: [
        response(200, completion(ask), x_ratelimit_remaining_requests="0",
                 x_ratelimit_reset_requests="20ms", x_ratelimit_remaining_tokens="-7")
    ],
    "usage negative": _usage({"prompt_tokens": -5, "completion_tokens": -1}),
    "usage huge": _usage({"prompt_tokens": 10**30, "completion_tokens": 2**62}),
    "usage text": _usage({"prompt_tokens": "ten", "completion_tokens": [1]}),
    "usage missing": _usage(None),
    "usage not a number": _usage({"prompt_tokens": float("nan"), "completion_tokens": 1.5}),
}  # fmt: skip
# AGAIN may pass: the same request is to be asked again.
AGAIN = {
    "429": lambda ask: [refusal(429, "slow down")],
    "429, seconds": lambda ask: [refusal(429, "slow down", retry_after=0.2)],
    "429, date": lambda ask: [refusal(429, "slow down", retry_after=_in_a_second())],
    "429, nonsense": lambda ask: [refusal(429, "slow down", retry_after="nan")],
    "500": lambda ask: [response(500, b"oops", "text/plain")],
    "502": lambda ask: [response(502, b"<html>Bad Gateway</html>", "text/html")],
    "no answer": lambda ask: [LONG],
    "endless drip": _endless_drip,
    "cut before the headers": lambda ask: [CUT],
    "cut in the headers": lambda ask: [b"HTTP/1.1 200 OK\r\nContent-Ty", CUT],
    "cut in the body": lambda ask: [response(200, completion(ask))[:-40], CUT],
    "no HTTP": lambda ask: [b"banana\r\n\r\n", CUT],
    "long header": lambda ask: [response(200, completion(ask), x_long="x" * 100_000)],
    "bad gzip": lambda ask: [response(200, completion(ask), content_encoding="gzip")],
    "truncated JSON": _ok(lambda ask: completion(ask)[:-40]),
    "invalid JSON": _ok(lambda ask: b'{"choices": nope}'),
    "deep JSON": _ok(lambda ask: b"[" * 200_000),
    "not UTF-8": _ok(lambda ask: completion(ask).replace(b"think", b"\xff\xfe")),
    "empty body": _ok(lambda ask: b""),
    "no object": _ok(lambda ask: b"[1, 2]"),
    "empty choices": _ok(lambda ask: completion(ask, choices=[])),
    "no message": _ok(lambda ask: completion(ask, choices=[{"index": 0}])),
    "an error, status 200": _ok(lambda ask: b'{"error": {"message": "overloaded"}}'),
    "429 inside a 200": _ok(lambda ask: b'{"error": {"message": "slow down", "code": 429}}'),
    "null content": _ok(lambda ask: completion(ask, {"role": "assistant", "content": None})),
    "broken off": _ok(lambda ask: completion(ask, choices=[_choice(ask, "error")])),
    "an error in the choice": _ok(
        lambda ask: completion(
            ask, choices=[{**_choice(ask, "stop"), "error": {"code": 502, "message": "gone"}}]
        )
    ),
}
# REFUSED never passes, but says nothing of other requests.
REFUSED = {
    "400": lambda ask: [refusal(400, "too long")],
    "403, moderation": lambda ask: [refusal(403, "your input was flagged")],
    "content filter": _ok(lambda ask: completion(ask, choices=[_choice(ask, "content_filter")])),
    "400 inside a 200": _ok(lambda ask: b'{"error": {"message": "too long", "code": 400}}'),
}
# ROUTED are asked again where they come after an answer, and else end the teacher.
ROUTED = {"404": lambda ask: [refusal(404, "the model `m` does not exist", "model_not_found")]}
# OUT says that the teacher answers nothing more.
OUT = {
    "401": lambda ask: [refusal(401, "bad key")],
    "402": lambda ask: [refusal(402, "insufficient balance")],
    "429, quota": lambda ask: [refusal(429, "You exceeded your current quota", "insufficient_quota")],
    "redirect": lambda ask: [response(307, b"", location="http://127.0.0.1:9/v1/chat/completions")],
}  # fmt: skip
FAULTS = {**ANSWERS, **AGAIN, **REFUSED, **ROUTED, **OUT}


def draw(*parts):
    """A number from 0 to 1 that depends on the parts alone."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big") / 2**56


class FaultServer:
    """The server, in a thread of its own; a context manager.

    Args:
        plan: The name of a fault (or "") for each request.
        latency_s: Seconds before it answers, or a function of the request.
    """

    def __init__(self, plan=lambda ask: "", latency_s=0.0):
        self.plan, self.log, self.answered = plan, [], 0
        self.latency = latency_s if callable(latency_s) else lambda ask: latency_s
        self._attempts = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._tasks = set()
        self._call(self._start())

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def settle(self):
        """Waits until every connection of a client that is dead has been noticed."""
        end = time.monotonic() + 10
        while self._tasks and time.monotonic() < end:
            time.sleep(0.005)
        assert not self._tasks, "a dead client's connection is still open"

    def _call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _start(self):
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1024)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _stop(self):
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader, writer):
        """One request; whether the connection may carry another."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        path = head.split(b" ", 2)[1].decode().partition("?")[0]
        ask = self._asked(path, json.loads(await reader.readexactly(length)))
        came = time.monotonic()
        try:
            return await self._serve(ask, reader, writer)
        finally:
            ask.done, ask.took_s = True, time.monotonic() - came

    async def _serve(self, ask, reader, writer):
        if await _gone(reader, self.latency(ask)):
            return False
        self._attempts[ask.place, ask.model] += 1
        ask.met = True
        for step in FAULTS[ask.fault](ask):
            if step is CUT:
                return False
            if isinstance(step, float):
                if await _gone(reader, step):
                    return False
            else:
                writer.write(step)
                await writer.drain()
        if reader.at_eof() or writer.is_closing():
            return False
        ask.whole = True
        ask.answered = ask.fault in ANSWERS
        self.answered += ask.answered
        return True

    def _asked(self, path, body):
        dialect = dialect_of(path, body)
        question, seed, model = asked_of(dialect, body, path)
        place = question, 0 if seed is None else seed - FIRST_SEED
        ask = Asked(*place, model, self._attempts[place, model], dialect)
        ask.fault = self.plan(ask)
        self.log.append(ask)
        return ask


async def _gone(reader, seconds):
    """Waits so long; whether the client went away meanwhile (it sends nothing while it waits)."""
    if seconds <= 0:
        return reader.at_eof()
    with contextlib.suppress(TimeoutError):
        return await asyncio.wait_for(reader.read(1), seconds) == b""
    return False
