"""What a generation came to so far, and what it may still spend."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from synth.config.generate import Budget
from synth.core.errors import DistillError, Unfinished
from synth.store import Spent
from synth.teachers.contract import Cap


@dataclass
class Counts:
    """What happened so far; progress is shown from it and the manifest keeps it.

    Attributes:
        questions: Questions finished, of `questions_total`.
        solved: Of these, the ones with at least one record that passed.
        gave_up: Of these, the ones that were given up for want of hope.
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
        """As JSON values, with the seconds since the start."""
        values = {
            k: dict(v) if isinstance(v, Counter) else v
            for k, v in vars(self).items()
            if k not in ("started", "in_flight", "student_tokens")
        }
        return values | {
            "student_tokens": self.lengths(),
            "seconds": round(time.monotonic() - self.started, 3),
        }

    def lengths(self) -> dict[str, int] | None:
        """Median, 95th percentile and maximum of the lengths in the student's tokens."""
        if not self.student_tokens:
            return None
        ordered = sorted(self.student_tokens)
        last = len(ordered) - 1
        return {
            "median": ordered[last // 2],
            "p95": ordered[round(0.95 * last)],
            "max": ordered[last],
        }


class Purse:
    """What may be spent: by the run, and on each teacher.

    What is in flight is reckoned in at the mean of what came so far, so that a run ends near its
    cap and not a window beyond it.

    Args:
        budget: Of the run, or None.
        caps: Of single teachers.
        spent: What this run bought before, by teacher.
    """

    def __init__(
        self, budget: Budget | None, caps: Mapping[str, Cap], spent: Mapping[str, Spent]
    ) -> None:
        self._budget, self._caps = budget, caps
        self._spent = dict(spent)
        self._total = (
            Spent(*map(sum, zip(*spent.values(), strict=True))) if spent else Spent(0, 0, 0)
        )
        self._in_flight: Counter[str] = Counter()
        hours = budget.hours if budget else None
        self._ends = time.monotonic() + 3600 * hours if hours else None

    def refusal(self, teacher: str) -> tuple[DistillError, bool] | None:
        """Why nothing more may be sent to a teacher, and whether that holds for all of them."""
        if self._budget is not None:
            if self._ends is not None and time.monotonic() > self._ends:
                return _used_up("budget.hours", f"{self._budget.hours:g} h"), True
            total = self._reckoned(self._total, self._in_flight.total())
            if over := _over(self._budget.usd, self._budget.tokens, total):
                return _used_up(f"budget.{over[0]}", over[1]), True
        cap = self._caps.get(teacher)
        if cap is not None:
            own = self._reckoned(
                self._spent.get(teacher, Spent(0, 0, 0.0)), self._in_flight[teacher]
            )
            if over := _over(cap.usd, cap.tokens, own):
                return _used_up(f"teachers.{teacher}.budget.{over[0]}", over[1]), False
        return None

    def begin(self, teacher: str) -> None:
        """A request goes out."""
        self._in_flight[teacher] += 1

    def end(self, teacher: str, tokens: int | None = None, usd: float | None = None) -> None:
        """It came back, with what it cost where it was answered."""
        self._in_flight[teacher] -= 1
        if tokens is not None:
            one = Spent(1, tokens, usd or 0.0)
            self._total = _sum(self._total, one)
            self._spent[teacher] = _sum(self._spent.get(teacher, Spent(0, 0, 0.0)), one)

    @staticmethod
    def _reckoned(spent: Spent, in_flight: int) -> Spent:
        """What it will be when all that is in flight, and one more, has come back."""
        more = (in_flight + 1) / spent.responses if spent.responses else 0.0
        return Spent(spent.responses, round(spent.tokens * (1 + more)), spent.usd * (1 + more))


def _sum(one: Spent, other: Spent) -> Spent:
    return Spent(one.responses + other.responses, one.tokens + other.tokens, one.usd + other.usd)


def _over(usd: float | None, tokens: int | None, spent: Spent) -> tuple[str, str] | None:
    if tokens is not None and spent.tokens > tokens:
        return "tokens", f"{tokens:,} tokens"
    if usd is not None and spent.usd > usd:
        return "usd", f"${usd:g}"
    return None


def _used_up(key: str, cap: str) -> Unfinished:
    return Unfinished(
        f"{key}: the cap of {cap} is reached; all that was bought is stored, "
        "and a run with a higher cap goes on from here"
    )
