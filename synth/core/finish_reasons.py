"""Tells which chat completions are no answers: refused, broken off by the API, or empty."""

from __future__ import annotations

from typing import Any, NamedTuple

from synth.core.reasoning import is_cut, split_fields, told_apart

# The API or the model refused: the same request is refused again. In lower case.
_REFUSED = {
    *("content_filter", "content_filtered", "refusal", "moderation", "blocked", "flagged"),
    *("sensitive", "guardrail_intervened", "error_toxic"),  # Zhipu, Bedrock, Cohere
    # Gemini, which some endpoints pass on as it is
    *("safety", "recitation", "blocklist", "prohibited_content", "spii", "language"),
    *("image_safety", "image_prohibited_content", "image_recitation", "model_armor"),
    # The API stopped a model that repeated itself: what came is no whole answer.
    *("repetition_truncation", "repetition"),
}
# The API broke off: asked again it may answer.
_BROKEN_OFF = {
    *("error", "failed", "failure", "server_error", "internal_error", "unavailable", "overloaded"),
    *("insufficient_system_resource", "network_error", "connection_error", "timeout"),
    *("abort", "aborted", "cancelled", "canceled", "interrupted"),
    *("malformed_function_call", "malformed_response", "unexpected_tool_call"),  # Gemini
}
# A longer message holds an answer, whatever tags are in it.
_SHORT = 1_000


class NoAnswer(NamedTuple):
    """Why a completion is no answer; `passes`: asked again it may be one."""

    reason: str  # short; groups by what stands before its first colon
    passes: bool
    empty: bool = False


def no_answer(raw: dict[str, Any], empty_is_answer: bool = False) -> NoAnswer | None:
    """Returns why a raw chat completion is no answer, or None where it is one.

    An empty message that was cut off at the limit on its tokens is an answer that was cut off.

    Args:
        raw: The completion, in OpenAI's format.
        empty_is_answer: Whether an empty message is what the model wrote.

    Raises:
        ValueError: It has no choices[0].message.

    >>> message = {"content": "The ans"}
    >>> no_answer({"choices": [{"message": message, "finish_reason": "content_filter"}]}).reason
    'finish reason content_filter'
    """
    try:
        choice = raw["choices"][0]
        message = choice["message"]
        reasoning, content = told_apart(message)
        finish, error, refusal = choice.get("finish_reason"), choice.get("error"), _refusal(message)
    except (KeyError, IndexError, TypeError, AttributeError) as problem:
        raise ValueError("the response has no choices[0].message") from problem
    finish = finish if isinstance(finish, str) else ""
    kind = _kind(finish)
    if error:
        text = error.get("message") if isinstance(error, dict) else error
        return NoAnswer(f"finish reason error: {_line(text)}", True)
    if kind in _BROKEN_OFF:
        return NoAnswer(f"finish reason {kind}", True)
    if kind in _REFUSED:
        return NoAnswer(f"finish reason {kind}" + (f": {_line(refusal)}" if refusal else ""), False)
    if refusal:
        return NoAnswer(f"refused: {_line(refusal)}", False)
    if empty_is_answer or is_cut(finish) or len(reasoning) + len(content) > _SHORT:
        return None
    if any(split_fields(reasoning, content)) or message.get("tool_calls"):
        return None
    if message.get("function_call") or message.get("audio"):
        return None
    return NoAnswer("empty: no text, no reasoning, no call of a tool", True, True)


def broke_off(finish_reason: str) -> bool:
    """Tells whether a finish reason says that there is no whole answer, and no limit is the cause.

    >>> broke_off("SAFETY"), broke_off("stop"), broke_off("length")
    (True, False, False)
    """
    return _kind(finish_reason) in _REFUSED | _BROKEN_OFF


def _kind(finish_reason: str) -> str:
    return finish_reason.strip().lower().replace("-", "_").rpartition(".")[2]


def _refusal(message: dict[str, Any]) -> str:
    """Returns the refusal that a message holds in place of content; "" for none."""
    refusal, content = message.get("refusal"), message.get("content")
    if isinstance(content, list) and not refusal:
        kinds = [part for part in content if isinstance(part, dict)]
        if kinds and all(part.get("type") == "refusal" for part in kinds):
            refusal, content = kinds[0].get("refusal"), None
    return refusal if isinstance(refusal, str) and not content else ""


def _line(text: Any) -> str:
    return " ".join(str(text).split())[:300]
