"""An OpenAI-compatible server for load tests: every chat completion after a fixed latency.

Two cores carry it and the client, so it does as little as it can: HTTP/1.1 is read for its length
alone, answers are prebuilt but for an id, and one timer serves all that fall due in a tick.

    python bench/_shared/server.py [BODY_BYTES [LATENCY_S]]     prints its address; ends with its input

Any POST is answered; `GET /reset` gives what it counted as JSON and starts anew.
"""

import asyncio
import json
import random
import resource
import subprocess
import sys
import urllib.request
from collections import deque
from pydoc_data.topics import topics

TICK_S = 0.004
VARIANTS = 256  # texts to draw from; with the id, no two answers are the same bytes


def answers(body_bytes, variants=VARIANTS, seed=0):
    """Chat completions of about so many bytes, as bytes before and after an id of 12 digits.

    Their text is English prose that comes with Python: it compresses as prose does.
    """
    prose = "\n".join(topics.values()).encode("ascii", "ignore").decode()
    draw, made = random.Random(seed), []
    for _ in range(variants):
        start = draw.randrange(len(prose) - body_bytes)
        message = {"role": "assistant", "content": prose[start : start + body_bytes - 400]}
        whole = {
            "id": "chatcmpl-000000000000",
            "object": "chat.completion",
            "created": 1700000000,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": 20,
                "completion_tokens": body_bytes // 4,
                "total_tokens": 20 + body_bytes // 4,
            },
        }
        before, after = json.dumps(whole).encode().split(b"000000000000", 1)
        made.append((before, after))
    return made


class Counted:
    """What came since the last reset."""

    def __init__(self):
        self.requests = self.in_flight = self.most = 0
        self.cpu = _cpu()

    def read(self):
        return {
            "requests": self.requests,
            "most_in_flight": self.most,
            "cpu": round(_cpu() - self.cpu, 3),
        }


def _cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Server:
    def __init__(self, body_bytes, latency_s):
        self.latency_s, self.counted, self.number = latency_s, Counted(), 0
        self.due = deque()  # (when, connection): the latency is one, so they fall due in order
        self.parts = []
        for before, after in answers(body_bytes):
            length = len(before) + 12 + len(after)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
            self.parts.append((head.encode() + before, after))

    async def run(self):
        loop = asyncio.get_running_loop()
        self.loop, self.ended = loop, asyncio.Event()
        listening = await loop.create_server(lambda: Connection(self), "127.0.0.1", 0, backlog=4096)
        print(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1", flush=True)
        loop.add_reader(sys.stdin, self.ended.set)  # the end of the one who started it
        await self.ended.wait()

    def tick(self):
        until = self.loop.time()
        while self.due and self.due[0][0] <= until:
            self.due.popleft()[1].answer()
        if self.due:
            self.loop.call_later(max(TICK_S, self.due[0][0] - until), self.tick)

    def asked(self, connection):
        counted = self.counted
        counted.requests += 1
        counted.in_flight += 1
        counted.most = max(counted.most, counted.in_flight)
        if not self.due:
            self.loop.call_later(self.latency_s, self.tick)
        self.due.append((self.loop.time() + self.latency_s, connection))

    def reset(self):
        read, self.counted = self.counted.read(), Counted()
        return json.dumps(read).encode()


class Connection(asyncio.Protocol):
    def __init__(self, server):
        self.server, self.buffer, self.open = server, b"", True

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, error):
        self.open = False

    def data_received(self, data):
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            if at >= 0:
                whole = end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
            elif b"transfer-encoding: chunked" in head:
                last = self.buffer.find(b"\r\n0\r\n\r\n", end)
                whole = last + 7 if last >= 0 else len(self.buffer) + 1
            else:
                whole = end + 4
            if len(self.buffer) < whole:
                return
            self.buffer = self.buffer[whole:]
            if head.startswith(b"get"):
                text = self.server.reset()
                self.transport.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
                )
            else:
                self.server.asked(self)

    def answer(self):
        server = self.server
        server.counted.in_flight -= 1
        if self.open:
            server.number += 1
            before, after = server.parts[server.number % VARIANTS]
            self.transport.write(b"%s%012d%s" % (before, server.number, after))


class Running:
    """The server in a process of its own, as a context manager; `url` ends in /v1."""

    def __init__(self, body_bytes=2000, latency_s=0.2):
        command = [sys.executable, __file__, str(body_bytes), str(latency_s)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.url = self.process.stdout.readline().strip()

    def reset(self):
        """What was counted since the last call: requests, most_in_flight, cpu (seconds)."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/reset") as answer:
            return json.load(answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


if __name__ == "__main__":
    body_bytes, latency_s = int((sys.argv[1:] or [2000])[0]), float((sys.argv[2:] or [0.2])[0])
    asyncio.run(Server(body_bytes, latency_s).run())
