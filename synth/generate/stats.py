"""Statistics of a generation, for its progress and its manifest."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

# Named in a manifest only where there is something to say.
_RARE = {"set_aside", "warnings", "estimated", "estimated_tokens", "estimated_usd", "odd_usage"}
_RARE |= {"no_answers", "failed_examples"}


@dataclass
class GenerationStats:
    """What a generation came to so far; progress is shown from it, and the manifest keeps it."""

    questions_total: int = 0
    questions: int = 0  # finished
    solved: int = 0  # of these, with a record that passed
    gave_up: int = 0  # of these, given up for their low pass rate
    voted: int = 0  # of these, with a reference answer by agreement
    bought: int = 0  # responses paid for in this call
    reused: int = 0  # responses from the store
    # Stored responses that hold no answer, by reason: their requests are asked again.
    set_aside: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    stopping: bool = False  # nothing more is asked; in no manifest, as `in_flight`
    kept: int = 0  # records that passed the trace filters
    rejected: Counter[str] = field(default_factory=Counter)  # the other records, by reason
    failed: Counter[str] = field(default_factory=Counter)  # for good, by reason
    failed_examples: dict[str, str] = field(default_factory=dict)  # the first of each reason
    retried: Counter[str] = field(default_factory=Counter)  # further attempts, by reason
    prompt_tokens: int = 0  # of the responses bought, as all down to `models`
    completion_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0  # their cost is not known
    no_answers: int = 0  # responses beside these that were paid for and hold no answer
    # Of the responses bought, those whose endpoint did not count them, and what they may come to
    # by the length of their texts. None of it is in the figures above.
    estimated: int = 0
    estimated_tokens: int = 0
    estimated_usd: float = 0.0
    odd_usage: Counter[str] = field(default_factory=Counter)  # figures that cannot be, by name
    cut: int = 0  # off at their limit
    by_teacher: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)  # as the endpoints name them
    out: dict[str, str] = field(default_factory=dict)  # teachers given up, and why
    warnings: list[str] = field(default_factory=list)  # alarms that stopped nothing
    # Length of each trace in the student's tokens, where they are counted.
    student_tokens: array[int] = field(default_factory=lambda: array("I"))
    started: float = field(default_factory=time.monotonic)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with the seconds since the start."""
        values = {
            name: value
            for name, value in vars(self).items()
            if name not in ("started", "in_flight", "stopping") and (value or name not in _RARE)
        }
        seconds = round(time.monotonic() - self.started, 3)
        return values | {"student_tokens": self.lengths(), "seconds": seconds}

    def lengths(self) -> dict[str, int] | None:
        """Return median, 95th percentile and maximum of the lengths in the student's tokens."""
        if not self.student_tokens:
            return None
        ordered, last = sorted(self.student_tokens), len(self.student_tokens) - 1
        indices = {"median": last // 2, "p95": round(0.95 * last), "max": last}
        return {name: ordered[index] for name, index in indices.items()}
