"""Statistics of a generation, for its progress and its manifest."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class GenerationStats:
    """What a generation came to so far; progress is shown from it, and the manifest keeps it.

    Attributes:
        questions: Questions finished, of `questions_total`; `solved` have a record that passed.
        gave_up: Of these, the ones given up for their low pass rate.
        voted: Of these, the ones whose reference answer came by agreement.
        bought: Responses paid for in this call; `reused` came from the store.
        kept: Records that passed the trace filters; `rejected` counts the others by reason.
        failed: Requests that failed for good, by reason; `retried` counts further attempts.
        prompt_tokens: Of the responses bought, as are `completion_tokens` and `cost_usd`.
        unpriced: Responses bought whose cost is not known.
        cut: Responses bought that were cut off at their limit.
        by_teacher: Responses bought of each teacher; `models` is what they said they are.
        out: Teachers that were given up, and why.
        student_tokens: Length of each trace in the student's tokens, where they are counted.
    """

    questions_total: int = 0
    questions: int = 0
    solved: int = 0
    gave_up: int = 0
    voted: int = 0
    bought: int = 0
    reused: int = 0
    in_flight: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0
    cut: int = 0
    by_teacher: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    out: dict[str, str] = field(default_factory=dict)
    student_tokens: array[int] = field(default_factory=lambda: array("I"))
    started: float = field(default_factory=time.monotonic)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with the seconds since the start."""
        values = {k: v for k, v in vars(self).items() if k not in ("started", "in_flight")}
        seconds = round(time.monotonic() - self.started, 3)
        return values | {"student_tokens": self.lengths(), "seconds": seconds}

    def lengths(self) -> dict[str, int] | None:
        """Return median, 95th percentile and maximum of the lengths in the student's tokens."""
        if not self.student_tokens:
            return None
        ordered, last = sorted(self.student_tokens), len(self.student_tokens) - 1
        indices = {"median": last // 2, "p95": round(0.95 * last), "max": last}
        return {name: ordered[index] for name, index in indices.items()}
