"""Messages in OpenAI's form, taken apart for APIs that have another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synth.teachers.base import RequestRejected


def system_and_turns(messages: Sequence[Any], kind: str) -> tuple[str, list[tuple[str, list[str]]]]:
    """Return the text of the system prompt, and role and texts of each turn after it.

    Raises:
        RequestRejected: A turn is no text, or the system prompt comes after the first turn.
    """
    system: list[str] = []
    turns: list[tuple[str, list[str]]] = []
    for message in messages:
        role, texts = message.get("role"), _texts(message, kind)
        if role in ("system", "developer"):
            if turns:
                raise RequestRejected(f"kind {kind}: a system prompt after the first turn")
            system += texts
        elif role in ("user", "assistant"):
            turns.append((role, texts))
        else:
            raise RequestRejected(f"kind {kind}: a turn with the role {role!r}")
    return "\n\n".join(system), turns


def _texts(message: Any, kind: str) -> list[str]:
    content = message.get("content")
    if isinstance(content, str) and not message.get("tool_calls"):
        return [content]
    parts = content if isinstance(content, list) else [None]
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    if message.get("tool_calls") or not all(isinstance(text, str) for text in texts):
        raise RequestRejected(f"kind {kind}: a turn that is not text alone")
    return [text for text in texts if isinstance(text, str)]
