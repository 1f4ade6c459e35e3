"""Gemini's responses as chat completions."""

from __future__ import annotations

import json
from typing import Any

from synth.teachers._http.events import DONE
from synth.teachers._response import malformed
from synth.teachers.base import RequestRejected

# What the finish reasons are in OpenAI's words. A reason that is not here stays as it is.
_FILTERED = (
    "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "ESCALATION", "PUP_LIMITED_DISABLED",
    "MODEL_ARMOR",
)  # fmt: skip
_BROKEN = (
    "FINISH_REASON_UNSPECIFIED", "OTHER", "MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE",
    "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE", "IMAGE_OTHER",
    "NO_IMAGE",
)  # fmt: skip
_FINISH = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(_FILTERED, "content_filter"),
    **dict.fromkeys(_BROKEN, "error"),
}


def completion_of(response: dict[str, Any]) -> dict[str, Any]:
    """Return the chat completion that a response is in another form.

    Raises:
        RequestRejected: The prompt was blocked.
        RetryableError: It is no response that has ended.
    """
    candidates = response.get("candidates")
    if not isinstance(candidates, list) or not candidates:
        feedback = response.get("promptFeedback")
        if isinstance(feedback, dict) and (reason := feedback.get("blockReason")):
            raise RequestRejected(f"the prompt was blocked: {str(reason)[:100]}")
        raise malformed("no candidates")
    choices = [_choice(index, candidate) for index, candidate in enumerate(candidates)]
    return {
        "id": response.get("responseId"),
        "object": "chat.completion",
        "model": response.get("modelVersion"),
        "choices": choices,
        "usage": _usage(response.get("usageMetadata")),
        "native": response,  # with the signatures of thoughts and the safety ratings
    }


def _choice(index: int, candidate: Any) -> dict[str, Any]:
    reason = candidate.get("finishReason") if isinstance(candidate, dict) else None
    if not isinstance(reason, str):
        raise malformed("a candidate without finishReason")
    parts = _parts(candidate)
    thoughts = "".join(text for part, text in parts if part.get("thought") is True)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(text for part, text in parts if part.get("thought") is not True),
    }
    if thoughts:
        message["reasoning"] = thoughts
    finish = _FINISH.get(reason, reason)
    if calls := [_call(part["functionCall"]) for part, _ in parts if "functionCall" in part]:
        message["tool_calls"] = calls
        finish = "tool_calls" if finish == "stop" else finish
    return {"index": index, "message": message, "finish_reason": finish}


def _parts(candidate: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Return the parts of a candidate, each with its text ("" for none)."""
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    parts = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    texts = [part.get("text") for part in parts]
    return [
        (part, text if isinstance(text, str) else "")
        for part, text in zip(parts, texts, strict=True)
    ]


def _call(call: Any) -> dict[str, Any]:
    call = call if isinstance(call, dict) else {}
    arguments = json.dumps(call.get("args") or {}, ensure_ascii=False)
    function = {"name": call.get("name"), "arguments": arguments}
    return {"id": call.get("id"), "type": "function", "function": function}


def _usage(usage: Any) -> dict[str, Any] | None:
    """Return the usage in OpenAI's form: thoughts are part of the completion."""
    if not isinstance(usage, dict):
        return None

    def count(name: str) -> int:
        value = usage.get(name)
        return value if isinstance(value, int) else 0

    if not isinstance(usage.get("promptTokenCount"), int):
        return None
    thoughts = count("thoughtsTokenCount")
    return {
        "prompt_tokens": count("promptTokenCount") + count("toolUsePromptTokenCount"),
        "completion_tokens": count("candidatesTokenCount") + thoughts,
        "prompt_tokens_details": {"cached_tokens": count("cachedContentTokenCount")},
        "completion_tokens_details": {"reasoning_tokens": thoughts},
    }


class ResponseJoiner:
    """Makes one response of the pieces of its stream."""

    def __init__(self) -> None:
        self._response: dict[str, Any] | None = None
        self._candidates: dict[int, dict[str, Any]] = {}

    def add(self, name: str, values: dict[str, Any]) -> bool:
        """Take one piece; the stream has no last event of its own."""
        if name == DONE:
            return True
        if "error" in values:
            self._response, self._candidates = {"error": values["error"]}, {}
            return True
        self._response = (self._response or {}) | {
            key: value for key, value in values.items() if key != "candidates"
        }
        candidates = values.get("candidates")
        for candidate in candidates if isinstance(candidates, list) else ():
            if isinstance(candidate, dict):
                self._add_candidate(candidate)
        return False

    def result(self) -> dict[str, Any] | None:
        """Return the response, or None where the stream was cut before a finish reason came."""
        response, candidates = self._response, self._candidates
        if response is None or "error" in response:
            return response
        if not candidates:
            return response if "promptFeedback" in response else None
        if not all(candidate.get("finishReason") for candidate in candidates.values()):
            return None
        return {**response, "candidates": [candidates[index] for index in sorted(candidates)]}

    def _add_candidate(self, piece: dict[str, Any]) -> None:
        index = piece.get("index")
        held = self._candidates.setdefault(index if isinstance(index, int) else 0, {})
        parts = [part for part, _ in _parts(held)]
        for part, text in _parts(piece):
            last = parts[-1] if parts else {}
            kinds = [set(p) - {"thought", "thoughtSignature"} for p in (last, part)]
            if kinds == [{"text"}, {"text"}] and last.get("thought") == part.get("thought"):
                parts[-1] = {**last, **part, "text": str(last["text"]) + text}
            else:
                parts.append(part)
        content = piece.get("content")
        content = content if isinstance(content, dict) else {}
        before = held.get("content")
        before = before if isinstance(before, dict) else {}
        held |= {key: value for key, value in piece.items() if key != "content"}
        held["content"] = {**before, **content, "parts": parts}
