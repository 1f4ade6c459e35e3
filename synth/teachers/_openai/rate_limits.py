"""Rate limits as an endpoint states them: `Retry-After` and `x-ratelimit-*` headers."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping

from synth.teachers.base import Advertised

_LONGEST_PAUSE_S = 600.0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a `retry-after-ms` or `Retry-After` header (seconds or a date), at most 600."""
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
    """What `x-ratelimit-remaining-*` and `x-ratelimit-reset-*` headers say."""

    def remaining(what: str) -> int | None:
        try:
            return max(0, int(headers.get(f"x-ratelimit-remaining-{what}", "")))
        except ValueError:
            return None

    def reset(what: str) -> float:
        return time.monotonic() + span(headers.get(f"x-ratelimit-reset-{what}", ""))

    return Advertised(
        remaining("requests"), reset("requests"), remaining("tokens"), reset("tokens")
    )


def span(text: str) -> float:
    """Seconds of a span as providers write it: `1s`, `6m0s`, `20ms`, `1h2m`, or plain seconds.

    What cannot be read counts as one second; more than ten minutes counts as ten.
    """
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "": 1.0}
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|h|m|s|))+", text):
        return 1.0
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s|)", text)
    return min(_LONGEST_PAUSE_S, sum(float(number) * units[unit] for number, unit in parts))
