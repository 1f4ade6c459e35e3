"""What statuses and headers of an OpenAI-compatible API mean: exceptions, and rate limits."""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from synth.core.errors import Unfinished, UserError
from synth.teachers.base import Advertised, RequestRejected, RetryableError

_LONGEST_PAUSE_S = 600.0


@dataclass(frozen=True, slots=True)
class StatusErrors:
    """Makes exceptions of statuses; no message shows the key, but where it is from."""

    base_url: str
    model: str
    key: str | None
    api_key_env: str | None

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        """Return what a status other than 200 means: try again, give the request or the API up."""
        url, (message, code) = self.base_url, _message_and_code(body)
        if self.key:  # some servers echo the key in their message
            message = message.replace(self.key, "***")
        if status in (401, 403):
            where = f"from {self.api_key_env}" if self.key else "none was given (api_key_env)"
            return UserError(f"{url} does not accept the key ({where}): {status} {message}")
        if status == 404:
            where = f"{url} knows no model {self.model!r}, or has no such address"
            return UserError(f"{where}: 404 {message}")
        if 300 <= status < 400:
            target = " ".join(headers.get("location", "").split())[:200]
            return UserError(f"{url} is moved to {target!r} ({status}); set base_url")
        if status == 402 or (status == 429 and _is_quota(f"{code} {message}")):
            return Unfinished(f"{url}: the balance or quota is used up: {status} {message}")
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


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return seconds of a `retry-after-ms` or `Retry-After` (seconds or a date), at most 600."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError):
                continue
        return min(max(seconds, 0.0), _LONGEST_PAUSE_S)
    return None


def advertised(headers: Mapping[str, str]) -> Advertised:
    """Return what `x-ratelimit-remaining-*` and `x-ratelimit-reset-*` headers say."""

    def read(what: str) -> tuple[int | None, float]:
        reset = headers.get(f"x-ratelimit-reset-{what}", "")
        left = headers.get(f"x-ratelimit-remaining-{what}", "")
        # Without a time there is nothing to wait for: a 429 will say where it is too early.
        if not reset or not re.fullmatch(r"[0-9]{1,18}", left):
            return None, 0.0
        return int(left), time.monotonic() + span(reset)

    return Advertised(*read("requests"), *read("tokens"))


def span(text: str) -> float:
    """Return seconds of a span as providers write it: `1s`, `6m0s`, `20ms`, `1h2m`, or `3`.

    What cannot be read counts as one second; more than ten minutes counts as ten.
    """
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "": 1.0}
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|h|m|s|))+", text):
        return 1.0
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s|)", text)
    return min(_LONGEST_PAUSE_S, sum(float(number) * units[unit] for number, unit in parts))
