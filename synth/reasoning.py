"""One normaliser: whatever an endpoint returned becomes reasoning and answer, and back to text.

Dialects, all met in the field: a `reasoning` field (vLLM), a `reasoning_content` field (DeepSeek
and older vLLM), inline `<think>...</think>`, and inline text in which only `</think>` appears
because the chat template had opened the tag itself (R1-Distill).
"""

from __future__ import annotations

from typing import Any

OPEN, CLOSE = "<think>", "</think>"
# What endpoints write when the limit on tokens ended a response: OpenAI and vLLM, Anthropic,
# Gemini (seen in both cases), and servers that name the limit that was met.
_CUT = {"length", "max_tokens", "max_length", "max_output_tokens", "model_length"}


def is_cut(finish_reason: str) -> bool:
    """Whether a finish reason says that the limit on tokens ended the answer."""
    return finish_reason.lower() in _CUT


def split_trace(text: str) -> tuple[str | None, str]:
    """Splits inline text into reasoning and answer.

    The first `</think>` ends the reasoning; a missing opening tag counts as opened at the start.
    With an opening tag and no closing one (cut off), all that follows is reasoning and the answer
    is empty. Text with no tag at all has reasoning None.

    >>> split_trace("<think>1+1=2</think>2")
    ('1+1=2', '2')
    >>> split_trace("1+1=2</think>2")
    ('1+1=2', '2')
    >>> split_trace("2")
    (None, '2')
    """
    head, close, tail = text.partition(CLOSE)
    before, opened, after = head.partition(OPEN)
    if opened and not before.strip():
        return after.strip(), tail.strip()
    if close:
        return head.strip(), tail.strip()
    if opened:
        # The model spoke before it began to think and never ended: keep its words as reasoning.
        return f"{before.strip()}\n{after.strip()}".strip(), ""
    return None, text.strip()


def join_trace(reasoning: str | None, answer: str) -> str:
    """The assistant's text as a student is trained to write it (the form of R1).

    >>> print(join_trace("1+1=2", "2"))
    <think>
    1+1=2
    </think>
    <BLANKLINE>
    2
    """
    return answer if reasoning is None else f"{OPEN}\n{reasoning}\n{CLOSE}\n\n{answer}"


def parse_completion(raw: dict[str, Any]) -> tuple[str | None, str, str]:
    """Reasoning, answer and finish reason of a raw chat completion (OpenAI's format).

    A reasoning field wins over inline tags. Null content counts as empty.

    Raises:
        ValueError: The response has no choice or no message in it.
    """
    try:
        choice = raw["choices"][0]
        message = choice["message"]
        content = message.get("content") or ""
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("the response has no choices[0].message") from error
    if isinstance(content, list):  # content parts, as some endpoints send them
        content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
    finish = str(choice.get("finish_reason") or "unknown")
    given = message.get("reasoning") or message.get("reasoning_content")
    if isinstance(given, str) and given.strip():
        # Some servers leave the closing tag at the head of the content.
        return given.strip(), content.replace(CLOSE, "", 1).strip(), finish
    return (*split_trace(content), finish)


def whole_text(raw: dict[str, Any]) -> str:
    """What the model wrote, tags included, so that it can be written on from there.

    Where a server has split the reasoning off, the tags are put back: a closing one only if
    anything follows it.
    """
    message = raw["choices"][0]["message"]
    content = message.get("content") or ""
    given = message.get("reasoning") or message.get("reasoning_content")
    if not isinstance(given, str) or not given:
        return content if isinstance(content, str) else ""
    return f"{OPEN}\n{given}" + (f"\n{CLOSE}\n\n{content}" if content else "")
