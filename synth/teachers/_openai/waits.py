"""How long an API asks to wait: in headers, in the body of an error, and in its words."""

from __future__ import annotations

import datetime
import email.utils
import math
import re
import time
from collections.abc import Mapping
from typing import Any

from synth.teachers.base import Advertised

_LONGEST_RESET_S = 600.0
_LONGEST_PAUSE_S = 7 * 86400.0  # what is longer was not meant
_EPOCH_S, _EPOCH_MS = 1e9, 1e12  # numbers from here on are times and no spans
_UNITS = {
    "ms": 1e-3, "milliseconds": 1e-3, "millisecond": 1e-3, "": 1.0, "s": 1.0, "sec": 1.0,
    "secs": 1.0, "second": 1.0, "seconds": 1.0, "m": 60.0, "min": 60.0, "mins": 60.0,
    "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hour": 3600.0, "hours": 3600.0,
    "d": 86400.0, "day": 86400.0, "days": 86400.0,
}  # fmt: skip
_NUMBER = r"\d{1,18}(?:\.\d{1,18})?"
_PART = rf"({_NUMBER})\s*({'|'.join(sorted(filter(None, _UNITS), key=len, reverse=True))})"
_SPAN = re.compile(rf"(?:{_PART}\s*)+", re.IGNORECASE)
_PARTS = re.compile(_PART, re.IGNORECASE)
# "Please retry in 2.4s", "Please try again in 1m30s", "retry after 26 seconds"
_IN_WORDS = re.compile(
    rf"(?:retry|try again|wait)(?: again| for| after| in|:)*\s+((?:{_PART}\s*)+)", re.IGNORECASE
)
# Headers of an answer that say how many requests and tokens are left.
REMAINING = ("x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens")
_KEYS = ("retryDelay", "retry_after", "retry_after_seconds", "retryAfter")


def seconds_of(text: str) -> float | None:
    """Return the seconds of a span, of a time from now on, or None where it is neither.

    Read are `3`, `1.5`, `2s`, `1m30s`, `20ms`, `26 seconds`, dates of HTTP and of RFC 3339, and
    Unix times in seconds or milliseconds. A time that is over is 0.

    >>> seconds_of("1m30s"), seconds_of("nan"), seconds_of("-1")
    (90.0, None, None)
    """
    text = text.strip()[:100]
    if re.fullmatch(_NUMBER, text):
        seconds = float(text)
        if seconds >= _EPOCH_MS:
            seconds = max(0.0, seconds / 1000 - time.time())
        elif seconds >= _EPOCH_S:
            seconds = max(0.0, seconds - time.time())
    elif _SPAN.fullmatch(text):
        seconds = sum(float(n) * _UNITS[unit.lower()] for n, unit in _PARTS.findall(text))
    elif (moment := _date(text)) is not None:
        seconds = max(0.0, moment - time.time())
    else:
        return None
    return seconds if math.isfinite(seconds) and seconds <= _LONGEST_PAUSE_S else None


def _date(text: str) -> float | None:
    """Return a date of HTTP or of RFC 3339 as Unix time."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        pass
    try:
        if re.match(r"\d{4}-\d\d-\d\d[T ]", text):
            moment = datetime.datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        pass
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the headers of a failure ask to wait, or None."""
    in_ms = headers.get("retry-after-ms", "").strip()
    if re.fullmatch(_NUMBER, in_ms) and (seconds := float(in_ms) / 1000) <= _LONGEST_PAUSE_S:
        return seconds
    for name in ("retry-after", "x-ratelimit-reset"):
        if (asked := seconds_of(headers.get(name, ""))) is not None:
            return asked
    return None


def retry_in_body(error: Any, message: str) -> float | None:
    """Return the seconds that an error's fields (Google's RetryInfo, ...) or words ask to wait."""
    fields = [error] if isinstance(error, dict) else []
    for field in list(fields):
        for name in ("details", "metadata"):
            inner = field.get(name)
            fields += [
                i for i in (inner if isinstance(inner, list) else [inner]) if isinstance(i, dict)
            ]
    for field in fields:
        for key in _KEYS:
            value = field.get(key)
            told = str(value) if isinstance(value, str | int | float) else ""
            if (seconds := seconds_of(told)) is not None:
                return seconds
    words = _IN_WORDS.search(message)
    return seconds_of(words[1]) if words else None


def advertised(headers: Mapping[str, str]) -> Advertised:
    """Return what `x-ratelimit-remaining-*` and `x-ratelimit-reset-*` headers say."""

    def read(what: str) -> tuple[int | None, float]:
        seconds = seconds_of(headers.get(f"x-ratelimit-reset-{what}", ""))
        left = headers.get(f"x-ratelimit-remaining-{what}", "")
        # Without a time there is nothing to wait for: a 429 will say where it is too early.
        if seconds is None or not re.fullmatch(r"[0-9]{1,18}", left):
            return None, 0.0
        return int(left), time.monotonic() + min(_LONGEST_RESET_S, seconds)

    return Advertised(*read("requests"), *read("tokens"))
