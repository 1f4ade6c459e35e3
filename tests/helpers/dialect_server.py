"""A server on loopback that answers any path by a script, whole or as a stream in any packets."""

import asyncio
import json
import threading
from dataclasses import dataclass

from aiohttp import web

CUT = object()  # the piece that ends the connection without an end of the body


@dataclass
class Call:
    """One request as it came; `body` is its JSON where it is JSON."""

    method: str
    path: str
    query: dict
    headers: dict
    body: object


class DialectServer:
    """`reply(call)` gives (status, headers, content); a list is sent piece by piece.

    Pieces are bytes, seconds to wait, or CUT. What else is no text is sent as JSON.
    """

    def __init__(self, reply):
        self.reply, self.calls = reply, []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _start(self):
        app = web.Application(client_max_size=2**28)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    async def _handle(self, request):
        data = await request.read()
        is_json = request.content_type == "application/json" and data
        body = json.loads(data) if is_json else data
        call = Call(request.method, request.path, dict(request.query), dict(request.headers), body)
        self.calls.append(call)
        status, headers, content = self.reply(call)
        headers = {"Content-Type": "application/json", **headers}
        if not isinstance(content, list):
            content = content if isinstance(content, str | bytes) else json.dumps(content)
            data = content.encode() if isinstance(content, str) else content
            return web.Response(status=status, body=data, headers=headers)
        response = web.StreamResponse(
            status=status, headers={**headers, "Content-Type": "text/event-stream"}
        )
        await response.prepare(request)
        for piece in content:
            if piece is CUT:
                request.transport.abort()
                return response
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                await response.write(piece)
        await response.write_eof()
        return response


def events(*values, end="\n"):
    """The bytes of server-sent events: each a dict, a (name, dict) or a text such as [DONE]."""
    lines = []
    for value in values:
        name, value = value if isinstance(value, tuple) else ("", value)
        lines += [f"event: {name}"] if name else []
        lines += [f"data: {value if isinstance(value, str) else json.dumps(value)}", ""]
    return (end.join(lines) + end).encode()
