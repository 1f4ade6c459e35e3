"""The dialects that the fault server speaks: what a request asks, and how an answer is written."""

import json

# Kinds of teachers and their options; without a seed in the API there is one sample a question.
KINDS = {
    "openai": {"kind": "openai"},
    "stream": {"kind": "openai", "stream": True, "idle_timeout_s": 1.0},
    "responses": {"kind": "openai_responses"},
    "anthropic": {"kind": "anthropic", "api_key_env": None},
    "gemini": {"kind": "gemini", "api_key_env": None},
}
WITHOUT_SEED = ("responses", "anthropic")
_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "error": "pause_turn",
}
_FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY", "error": "OTHER"}


class Events(bytes):
    """A body that is a stream of events."""


def dialect_of(path, body):
    """The dialect of a request, by where it goes."""
    if path.endswith("/chat/completions"):
        return "stream" if body.get("stream") else "openai"
    if path.endswith("/responses"):
        return "responses"
    return "anthropic" if path.endswith("/messages") else "gemini"


def asked_of(dialect, body, path):
    """Question, seed (None where the dialect has none) and model of a request."""
    if dialect == "gemini":
        model = path.rpartition("/")[2].partition(":")[0]
        text = body["contents"][-1]["parts"][0]["text"]
        return text, body["generationConfig"].get("seed"), model
    turns = body["input"] if dialect == "responses" else body["messages"]
    return turns[-1]["content"], body.get("seed"), body["model"]


def written(dialect, whole):
    """A chat completion, odd as it may be, as the bytes of a body in a dialect."""
    if dialect == "openai":
        return json.dumps(whole).encode()
    if dialect == "stream":
        return _events(whole)
    choices = whole["choices"]
    choice = choices[0] if choices else {}
    finish = "error" if choice.get("error") else choice.get("finish_reason")
    message = choice.get("message")
    text = (message or {}).get("content")
    native = {"responses": _response, "anthropic": _message, "gemini": _gemini}[dialect]
    return json.dumps(native(whole, message, text, finish)).encode()


def _events(whole):
    chunks = []
    for choice in whole["choices"]:
        message = choice.get("message") or {}
        text = message.get("content")
        pieces = (
            [text[at : at + 20] for at in range(0, min(len(text), 400), 20)] if text else [text]
        )
        if text and len(text) > 400:
            pieces.append(text[400:])
        for piece in pieces if message else ():
            delta = {**message, "content": piece}
            chunks.append({**whole, "choices": [{"index": 0, "delta": delta}], "usage": None})
        last = {key: value for key, value in choice.items() if key != "message"} | {"delta": {}}
        chunks.append({**whole, "choices": [last], "usage": None})
    chunks.append({**whole, "choices": []})
    lines = [f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks]
    return Events(": keep-alive\n\n".join(["", *lines, "data: [DONE]\n\n"]).encode())


def _usage(whole, prompt, completion):
    usage = whole["usage"]
    if not isinstance(usage, dict):
        return usage
    return {prompt: usage["prompt_tokens"], completion: usage["completion_tokens"]}


def _response(whole, message, text, finish):
    content = [] if text is None else [{"type": "output_text", "text": text}]
    status = {"stop": "completed", "length": "incomplete", "content_filter": "incomplete"}
    return {
        "id": whole["id"], "object": "response", "model": whole["model"],
        "status": status.get(finish, "failed"),
        "incomplete_details": {"reason": finish.replace("length", "max_output_tokens")} if finish else None,
        "output": None if message is None else [{"type": "message", "content": content}],
        "usage": _usage(whole, "input_tokens", "output_tokens"),
    }  # fmt: skip


def _message(whole, message, text, finish):
    content = [] if text is None else [{"type": "text", "text": text}]
    return {
        "id": whole["id"], "type": "message", "role": "assistant", "model": whole["model"],
        "content": None if message is None else content, "stop_reason": _STOP.get(finish, finish),
        "usage": _usage(whole, "input_tokens", "output_tokens"),
    }  # fmt: skip


def _gemini(whole, message, text, finish):
    parts = [] if text is None else [{"text": text}]
    candidate = {
        "content": {"parts": parts},
        "finishReason": _FINISH.get(finish, finish),
        "index": 0,
    }
    return {
        "responseId": whole["id"], "modelVersion": whole["model"],
        "candidates": [] if message is None else [candidate],
        "usageMetadata": _usage(whole, "promptTokenCount", "candidatesTokenCount"),
    }  # fmt: skip
