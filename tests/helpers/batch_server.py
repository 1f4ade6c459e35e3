"""A server on loopback that speaks OpenAI's files, batches and chat endpoints, and keeps a log."""

import asyncio
import json
import sqlite3
import threading
import time

from aiohttp import web

from synth.teachers import openai_batch


def completion(text, finish="stop", **message):
    """A chat completion as a provider sends it."""
    return {
        "id": "x",
        "object": "chat.completion",
        "model": "test-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **message},
                "finish_reason": finish,
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
    }


def error(status, message, code=None):
    """A status and an error's body as a provider sends them."""
    return status, {"error": {"message": message, "type": code, "code": code}}


class BatchServer:
    """Batches move by time and by what a test sets.

    Attributes:
        answer: Gives (status, JSON) for a request of a batch, or None where it is left over.
        online: The same for the chat endpoint.
        fault: Gives (status, JSON) for a method and a path that are to fail, else None.
        takes_s: Seconds from a batch's making to its end.
        hold: While set, no batch ends.
        ends: Gives (status, errors) of a batch that is due, by its object.
        slow_to_say_s: Seconds between the making of a batch and the answer that says so.
        uploads: The files of requests: lists of the parsed lines.
        batches: The batches made, as objects; `requests` are their lines.
        asked: The bodies that came to the chat endpoint.
        calls: Every call, as "METHOD path".
    """

    def __init__(self):
        self.answer = lambda body: (200, completion(f"<think>a</think>{text_of(body)}"))
        self.online = lambda body: (200, completion(f"<think>a</think>online {text_of(body)}"))
        self.fault = lambda method, path: None
        self.takes_s, self.hold, self.slow_to_say_s = 0.0, False, 0.0
        self.ends = lambda batch: ("completed", None)
        self.uploads, self.batches, self.asked, self.calls = [], {}, [], []
        self._files = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def made(self):
        """Keys of all requests of all batches that did not fail, in the order of their making."""
        return [
            line["custom_id"]
            for batch in self.batches.values()
            if batch["status"] != "failed"
            for line in batch["requests"]
        ]

    def close(self):
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _start(self):
        app = web.Application(client_max_size=2**28, middlewares=[self._logged])
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_post("/v1/batches", self._make)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._state)
        app.router.add_post("/v1/batches/{id}/cancel", self._cancel)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"

    @web.middleware
    async def _logged(self, request, handler):
        path = request.path.removeprefix("/v1")
        if request.content_type == "application/json":
            await request.read()  # a fault and what the handler does then come in one step
        self.calls.append(f"{request.method} {path}")
        if failed := self.fault(request.method, path):
            await request.read()
            return web.json_response(failed[1], status=failed[0])
        return await handler(request)

    async def _upload(self, request):
        form = await request.post()
        assert form["purpose"] == "batch"
        text = form["file"].file.read()
        self.uploads.append([json.loads(line) for line in text.splitlines()])
        id = f"file-{len(self.uploads)}"
        self._files[id] = self.uploads[-1]
        return web.json_response({"id": id, "object": "file", "purpose": "batch"})

    async def _make(self, request):
        wanted = await request.json()
        assert wanted["endpoint"] == "/v1/chat/completions"
        assert wanted["completion_window"] == "24h"
        id = f"batch_{len(self.batches) + 1}"
        self.batches[id] = {
            "id": id,
            "object": "batch",
            "status": "validating",
            "input_file_id": wanted["input_file_id"],
            "created_at": int(time.time()),
            "requests": self._files[wanted["input_file_id"]],
            "due": time.monotonic() + self.takes_s,
        }
        if self.slow_to_say_s:
            await asyncio.sleep(self.slow_to_say_s)
        return web.json_response(self._shown(self.batches[id]))

    async def _list(self, request):
        newest = sorted(self.batches.values(), key=lambda b: -int(b["id"].split("_")[1]))
        after = request.query.get("after")
        start = next((i + 1 for i, b in enumerate(newest) if b["id"] == after), 0)
        page = newest[start : start + 2]  # small pages, so that there are several
        more = len(newest) > start + 2
        return web.json_response({"data": [self._shown(b) for b in page], "has_more": more})

    async def _state(self, request):
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return web.json_response(error(404, "no such batch")[1], status=404)
        return web.json_response(self._shown(batch))

    async def _cancel(self, request):
        batch = self.batches[request.match_info["id"]]
        self._finish(batch, "cancelled", None)
        return web.json_response(self._shown(batch))

    async def _content(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        for line in self._files[request.match_info["id"]]:
            await response.write(json.dumps(line).encode() + b"\n")
        await response.write_eof()
        return response

    async def _chat(self, request):
        body = await request.json()
        self.asked.append(body)
        status, said = self.online(body)
        return web.json_response(said, status=status)

    def _shown(self, batch):
        """A batch as it is at this moment; it moves when it is looked at."""
        if batch["status"] in ("validating", "in_progress"):
            if time.monotonic() >= batch["due"] and not self.hold:
                self._finish(batch, *self.ends(batch))
            else:
                batch["status"] = "in_progress"
        return {k: v for k, v in batch.items() if k not in ("requests", "due")}

    def _finish(self, batch, status, errors):
        batch["status"] = status
        if errors is not None:
            batch["errors"] = {"object": "list", "data": errors}
            return
        good, bad = [], []
        for line in batch["requests"]:
            answered = self.answer(line["body"])
            said = {"id": "r", "custom_id": line["custom_id"], "response": None, "error": None}
            if answered is None:
                code, message = f"batch_{status}", "This request was not executed in time."
                bad.append({**said, "error": {"code": code, "message": message}})
                continue
            response = {"status_code": answered[0], "request_id": "q", "body": answered[1]}
            (good if answered[0] == 200 else bad).append({**said, "response": response})
        for name, lines in (("output_file_id", good), ("error_file_id", bad)):
            batch[name] = f"{name}-{batch['id']}" if lines else None
            self._files[batch[name]] = lines
        batch["request_counts"] = {
            "total": len(batch["requests"]), "completed": len(good), "failed": len(bad)
        }  # fmt: skip


def text_of(body):
    """The question of a request's body."""
    return body["messages"][-1]["content"]


def config_of(server, number=6, samples=1, **teacher):
    """A run that generates, for the command line."""
    asked = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(number)]
    return {
        "name": "b",
        "tasks": {"train": [{"source": "inline", "tasks": asked}]},
        "teachers": {"t": options(server, **teacher)},
        "generate": {
            "prompt": {"template": "plain"},
            "sampling": {"seed": 1, "max_tokens": 50},
            "samples": {"max": samples},
        },
    }


def options(server, kind="openai_batch", **more):
    """A teacher of a config, in a hurry."""
    quick = {"gather_s": 0.2, "poll_s": 0.1} if kind == "openai_batch" else {}
    return {"kind": kind, "model": "m", "base_url": server.url, **quick, **more}


def teacher_of(server, **more):
    wanted = {k: v for k, v in options(server, **more).items() if k != "kind"}
    return openai_batch.build(openai_batch.Config(**wanted), "t")


def manifest(tmp_path):
    """What the generation noted of itself."""
    return json.loads((tmp_path / "runs/b/generate/manifest.json").read_text())


def stored(tmp_path):
    """The keys in the store, and how many batches are noted as under way."""
    with sqlite3.connect(tmp_path / "runs/responses.sqlite") as connection:
        keys = [row[0] for row in connection.execute("SELECT key FROM responses")]
        return keys, connection.execute("SELECT count(*) FROM batches").fetchone()[0]
