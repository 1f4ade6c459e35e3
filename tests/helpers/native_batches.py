"""Anthropic's and Gemini's batches on loopback, with what goes wrong between a client and them."""

import datetime
import itertools
import json

from tests.helpers.dialect_server import CUT, DialectServer


def _now():
    return datetime.datetime.now(datetime.UTC).isoformat()


class NativeBatches:
    """Batches of one dialect over a `DialectServer`.

    Attributes:
        answer: Gives the native answer to a request's body; a tuple is (code, message) of an error,
            None a request that was left over.
        online: The same for requests outside a batch.
        fault: Gives what is sent in place of an answer to a call (method, path), else None.
        lose: While set, the answer to the making of a batch is lost on the way.
        hold: While set, no batch ends.
        made: The keys of each batch that was made.
    """

    def __init__(self):
        self.answer = lambda body: self.good(text_of(body))
        self.online = lambda body: self.good("online " + text_of(body))
        self.fault = lambda method, path: None
        self.lose = self.hold = False
        self.made, self.asked, self.calls, self.cancelled = [], [], [], set()
        self._batches, self._ids = {}, itertools.count(1)
        self.server = DialectServer(self._reply)
        self.url = self.server.url

    def close(self):
        self.server.__exit__()

    def _reply(self, call):
        self.calls.append(f"{call.method} {call.path}")
        if failed := self.fault(call.method, call.path):
            return failed
        return self.route(call)

    def _make(self, requests, **more):
        """Note a batch; whether its maker is told."""
        id = next(self._ids)
        self.made.append([key for key, _ in requests])
        self._batches[id] = {"id": id, "requests": requests, "created": _now(), **more}
        return id


class AnthropicServer(NativeBatches):
    kind, key_env = "anthropic_batch", "ANTHROPIC_API_KEY"

    def good(self, text):
        return {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
            "content": [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": text}],
            "stop_reason": "end_turn", "stop_sequence": None,
            "usage": {"input_tokens": 10, "output_tokens": 20},
        }  # fmt: skip

    def route(self, call):
        path = call.path.removeprefix("/v1/messages").strip("/").split("/")
        if path == [""]:
            self.asked.append(call.body)
            return 200, {}, self.online(call.body)
        if path == ["batches"] and call.method == "POST":
            requests = [(r["custom_id"], r["params"]) for r in call.body["requests"]]
            id = self._make(requests)
            return 200, {}, [CUT] if self.lose else self._shown(id)
        if path == ["batches"]:
            newest = sorted(self._batches, reverse=True)
            after = call.query.get("after_id", "")
            start = next((i + 1 for i, id in enumerate(newest) if f"b{id}" == after), 0)
            page = newest[start : start + 2]  # small pages, so that there are several
            more = len(newest) > start + 2
            return 200, {}, {"data": [self._shown(id) for id in page], "has_more": more}
        id = int(path[1].removeprefix("b"))
        if id not in self._batches:
            return 404, {}, {"type": "error", "error": {"type": "not_found_error", "message": "no"}}
        if path[2:] == ["results"]:
            lines = [self._line(id, *request) for request in self._batches[id]["requests"]]
            return (
                200,
                {"Content-Type": "application/binary"},
                "\n".join(map(json.dumps, lines[::-1])),
            )
        if path[2:] == ["cancel"]:
            self.cancelled.add(id)
        return 200, {}, self._shown(id)

    def _line(self, id, key, body):
        answer = self.answer(body)
        if id in self.cancelled:
            result = {"type": "canceled"}
        elif answer is None:
            result = {"type": "expired"}
        elif isinstance(answer, tuple):
            error = {"type": answer[0], "message": answer[1]}
            result = {"type": "errored", "error": {"type": "error", "error": error}}
        else:
            result = {"type": "succeeded", "message": answer}
        return {"custom_id": key, "result": result}

    def _shown(self, id):
        batch, ended = self._batches[id], not self.hold or id in self.cancelled
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        for request in batch["requests"]:
            kind = self._line(id, *request)["result"]["type"] if ended else "processing"
            counts[kind] += 1
        return {
            "id": f"b{id}", "type": "message_batch", "created_at": batch["created"],
            "processing_status": "ended" if ended else "in_progress", "request_counts": counts,
            "results_url": f"{self.url}/v1/messages/batches/b{id}/results" if ended else None,
        }  # fmt: skip


class GeminiServer(NativeBatches):
    kind, key_env = "gemini_batch", "GEMINI_API_KEY"

    def __init__(self):
        super().__init__()
        self._files = {}

    def good(self, text):
        parts = [{"text": "t", "thought": True}, {"text": text}]
        return {
            "candidates": [{"content": {"parts": parts}, "finishReason": "STOP", "index": 0}],
            "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 20}, "modelVersion": "g",
        }  # fmt: skip

    def route(self, call):
        path = call.path
        if path == "/upload/v1/files":
            assert call.headers["X-Goog-Upload-Command"] == "start"
            return 200, {"x-goog-upload-url": f"{self.url}/sent"}, {}
        if path == "/sent":
            assert call.headers["X-Goog-Upload-Command"] == "upload, finalize"
            name = f"files/f{len(self._files)}"
            lines = call.body if isinstance(call.body, bytes) else json.dumps(call.body).encode()
            self._files[name] = [json.loads(line) for line in lines.splitlines()]
            return 200, {}, {"file": {"name": name}}
        if path.endswith(":batchGenerateContent"):
            wanted = call.body["batch"]
            requests = [
                (r["key"], r["request"]) for r in self._files[wanted["inputConfig"]["fileName"]]
            ]
            id = self._make(requests, name=wanted["displayName"])
            return 200, {}, [CUT] if self.lose else self._shown(id)
        if path.endswith(":generateContent"):
            self.asked.append(call.body)
            return 200, {}, self.online(call.body)
        if path == "/v1/batches":
            newest, start = sorted(self._batches, reverse=True), int(call.query.get("pageToken", 0))
            page = {"operations": [self._shown(id) for id in newest[start : start + 2]]}
            return (
                200,
                {},
                page | ({"nextPageToken": str(start + 2)} if start + 2 < len(newest) else {}),
            )
        if path.startswith("/v1/files/results"):
            assert call.query == {"alt": "media"}
            id = int(path.removeprefix("/v1/files/results").removesuffix(":download"))
            lines = [self._line(*request) for request in self._batches[id]["requests"]]
            lines = [line for line in lines if line]
            return 200, {}, "\n".join(map(json.dumps, lines[::-1]))
        id = int(path.removeprefix("/v1/batches/b").removesuffix(":cancel"))
        if id not in self._batches:
            return 404, {}, {"error": {"code": 404, "message": "no"}}
        if path.endswith(":cancel"):
            self.cancelled.add(id)
        return 200, {}, self._shown(id)

    def _line(self, key, body):
        answer = self.answer(body)
        if answer is None:
            return None
        if isinstance(answer, tuple):
            return {"key": key, "error": {"code": answer[0], "message": answer[1]}}
        return {"key": key, "response": answer}

    def _shown(self, id):
        batch, ended = self._batches[id], not self.hold or id in self.cancelled
        state = "CANCELLED" if id in self.cancelled else "SUCCEEDED" if ended else "RUNNING"
        shown = {
            "name": f"batches/b{id}",
            "metadata": {
                "state": f"BATCH_STATE_{state}", "displayName": batch["name"],
                "createTime": batch["created"],
                "batchStats": {"requestCount": str(len(batch["requests"]))},
            },
        }  # fmt: skip
        if ended:
            shown["response"] = {"responsesFile": f"files/results{id}"}
        return shown


def text_of(body):
    """The question of a request's body, in either dialect."""
    if "contents" in body:
        return body["contents"][-1]["parts"][0]["text"]
    return body["messages"][-1]["content"]
