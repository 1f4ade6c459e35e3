"""Reads the text and the reasoning of a chat message, in every form that APIs and files give them.

Reasoning has a field of its own (text, an object that holds it, or a list of blocks), or it stands
in parts of the content. What is encrypted or redacted has no text and is passed over. `synth.core.
reasoning` then reads the tags that are left in the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from synth.core.readers import kind_of

# In the order in which they are looked at; an API that fills several says the same in each.
REASONING_FIELDS = (
    "reasoning_content",  # DeepSeek, Qwen, xAI, LiteLLM, vLLM until 0.11
    "reasoning",  # OpenRouter, Groq, vLLM
    "thinking",  # Ollama
    "reasoning_text",
    "reasoning_details",  # OpenRouter, MiniMax: blocks of type reasoning.text, reasoning.summary
    "thinking_blocks",  # LiteLLM: the blocks of Anthropic
)
_REASONING_KINDS = {
    *("thinking", "think", "thought", "reasoning", "reasoning_content", "reasoning_text"),
    *("reasoning.text", "reasoning.summary", "summary_text"),
}
_TEXT_KINDS = {"text", "input_text", "output_text"}
# What holds no words of the model: sources that it names, and reasoning that cannot be read.
_WORDLESS_KINDS = {
    *("reference", "tool_reference", "redacted_thinking", "reasoning.encrypted"),
    "reasoning.server_tool_call",
}
# Where an object keeps its reasoning; a summary counts only where the whole is not given.
_HOLDERS = (
    *("text", "thinking", "content", "reasoning", "reasoning_content"),
    *("reasoningContent", "reasoningText"),  # Bedrock
    "value",  # LLaMA-Factory
)
_SUMMARIES = {"reasoning.summary", "summary_text"}
_DEEPEST = 8


class PartsText(NamedTuple):
    """What the parts of a message's content hold."""

    content: str
    reasoning: str
    unread: list[str]  # kinds of the parts that hold something else, such as an image


def reasoning_of(message: Mapping[str, Any]) -> str:
    """Returns the reasoning that a message has in fields of its own; "" for none.

    >>> reasoning_of({"reasoning_details": [{"type": "reasoning.text", "text": "a"}]})
    'a'
    """
    if text := _first_field(message):
        return text
    nested = message.get("provider_specific_fields")  # LiteLLM
    return _first_field(nested) if isinstance(nested, dict) else ""


def _first_field(fields: Mapping[str, Any]) -> str:
    for name in REASONING_FIELDS:
        value = fields.get(name)
        if value and (text := reasoning_text(value)).strip():
            return text
    return ""


def reasoning_text(value: Any) -> str:
    """Returns the reasoning in the value of a field or part; "" where there is no text in it.

    >>> reasoning_text({"summary": [{"type": "summary_text", "text": "a"}]})
    'a'
    """
    if isinstance(value, str):
        return value
    whole, summary = _read(value, 0)
    return whole or summary


def read_parts(parts: list[Any]) -> PartsText:
    """Reads content that is a list of parts.

    >>> read_parts([{"type": "thinking", "thinking": "1+1"}, {"type": "text", "text": "2"}])
    PartsText(content='2', reasoning='1+1', unread=[])
    """
    texts: list[str] = []
    thoughts: list[Any] = []
    unread: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, dict):
            unread.append(kind_of(part))
        elif _is_reasoning(part):
            thoughts.append(part)
        else:
            kind, text = _kind(part), part.get("text", part.get("value"))  # LLaMA-Factory: value
            if kind == "refusal":  # OpenAI
                kind, text = "text", part.get("refusal")
            texts += [text] if isinstance(text, str) else []
            if kind not in _WORDLESS_KINDS and (
                kind not in _TEXT_KINDS or not isinstance(text, str | None)
            ):
                unread.append(kind)
    return PartsText("".join(texts), reasoning_text(thoughts), unread)


def _kind(part: Mapping[str, Any]) -> str:
    """Returns the type of a part; one that names none is text."""
    return str(part.get("type") or "text")


def _is_reasoning(part: Mapping[str, Any]) -> bool:
    if part.get("thought") is True:  # Gemini marks a part of type text
        return True
    if part.get("type"):
        return _kind(part) in _REASONING_KINDS
    return any(part.get(name) for name in ("thinking", "reasoning", "reasoningContent"))


def _read(value: Any, depth: int) -> tuple[str, str]:
    """Returns the whole reasoning in a value, and its summary; "" for none."""
    if isinstance(value, str):
        return value, ""
    if depth >= _DEEPEST:
        return "", ""
    if isinstance(value, list):
        return _read_blocks(value, depth)
    if not isinstance(value, dict) or _kind(value) in _WORDLESS_KINDS:
        return "", ""
    summary = "".join(_read(value.get("summary"), depth + 1))
    for name in _HOLDERS:
        whole, shorter = _read(value.get(name), depth + 1)
        if whole:
            return ("", whole) if _kind(value) in _SUMMARIES else (whole, summary)
        summary = summary or shorter
    return "", summary


def _read_blocks(blocks: list[Any], depth: int) -> tuple[str, str]:
    """Joins blocks: the pieces of one text as they are, texts of their own by a blank line."""
    whole, summary, before = "", "", None
    for block in blocks:
        glue = "" if _continues(before, block) else "\n\n"
        text, shorter = _read(block, depth + 1)
        whole += (glue if whole and text else "") + text
        summary += (glue if summary and shorter else "") + shorter
        before = block
    return whole, summary


def _continues(before: Any, block: Any) -> bool:
    """Tells whether a block goes on with the text of the one before it."""
    if not isinstance(before, dict) or not isinstance(block, dict):
        return False
    if _kind(block) in _TEXT_KINDS:  # Mistral's pieces of a thought
        return True
    index = block.get("index")  # OpenRouter's streams, put together
    return index is not None and index == before.get("index")
