"""Errors of an OpenAI-compatible API: which exception the status of a response stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from synth.core.errors import Unfinished, UserError
from synth.teachers._openai.rate_limits import retry_after
from synth.teachers.base import RequestRejected, RetryableError


@dataclass(frozen=True, slots=True)
class StatusErrors:
    """Makes exceptions of statuses.

    Attributes:
        base_url: The API's address, for the messages.
        model: The model that was asked.
        key: The API's key, which no message shows; None where there is none.
        api_key_env: Name of the environment variable that the key is from.
    """

    base_url: str
    model: str
    key: str | None
    api_key_env: str | None

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        """Return what a status other than 200 means: try again, give the request or the API up."""
        message, code = _message_and_code(body)
        if self.key:  # some servers echo the key in their message
            message = message.replace(self.key, "***")
        if status in (401, 403):
            where = f"from {self.api_key_env}" if self.key else "none was given (api_key_env)"
            return UserError(
                f"{self.base_url} does not accept the key ({where}): {status} {message}"
            )
        if status == 404:
            return UserError(
                f"{self.base_url} knows no model {self.model!r}, or has no such address: "
                f"404 {message}"
            )
        if 300 <= status < 400:
            target = " ".join(headers.get("location", "").split())[:200]
            return UserError(f"{self.base_url} is moved to {target!r} ({status}); set base_url")
        if status == 402 or (status == 429 and _is_quota(f"{code} {message}")):
            return Unfinished(
                f"{self.base_url}: the balance or quota is used up: {status} {message}"
            )
        reason = f"status {status}: {message}"
        if status == 429:
            return RetryableError(reason, retry_after(headers), trouble="rate limit")
        if status in (408, 409, 425) or status >= 500:
            return RetryableError(reason, retry_after(headers))
        return RequestRejected(reason)


def _message_and_code(body: bytes) -> tuple[str, str]:
    """Return the message and the code of an error's body, or the beginning of whatever it is."""
    try:
        error = json.loads(body)
        error = error.get("error", error)
        message = error if isinstance(error, str) else error.get("message", error)
        code = "" if isinstance(error, str) else f"{error.get('code')} {error.get('type')}"
    except (ValueError, AttributeError):
        message, code = body[:2000].decode("utf-8", "replace"), ""
    return " ".join(str(message).split())[:300], code


def _is_quota(text: str) -> bool:
    """Return whether a 429 says that the money is gone, not that requests come too fast."""
    text = text.lower()
    return (
        "insufficient_quota" in text
        or "current quota" in text
        or ("insufficient" in text and "balance" in text)
    )
