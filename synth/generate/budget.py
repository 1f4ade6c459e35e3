"""Budget tracker: what a run has spent, and whether a cap is reached."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Mapping

from synth.config.generate import Budget
from synth.core.errors import DistillError, Unfinished
from synth.store.usage import Usage
from synth.teachers.base import Cap


class BudgetTracker:
    """Tracks what is spent against the caps of the run and of each teacher.

    Requests in flight count at the mean of what came so far. So a run ends near its cap, and not
    a window beyond it.

    Args:
        budget: Of the run, or None.
        caps: Of single teachers.
        spent: What this run bought before, by teacher.
    """

    def __init__(
        self, budget: Budget | None, caps: Mapping[str, Cap], spent: Mapping[str, Usage]
    ) -> None:
        self._budget, self._caps = budget, caps
        self._spent = dict(spent)
        self._total = functools.reduce(_sum, spent.values(), Usage(0, 0, 0.0))
        self._in_flight: Counter[str] = Counter()
        hours = budget.hours if budget else None
        self._ends = time.monotonic() + 3600 * hours if hours else None

    def exceeded_cap(self, teacher: str) -> tuple[DistillError, bool] | None:
        """Return why nothing more may be sent to a teacher, and whether that holds for all."""
        if self._budget is not None:
            if self._ends is not None and time.monotonic() > self._ends:
                return _used_up("budget.hours", f"{self._budget.hours:g} h"), True
            total = self._projected(self._total, self._in_flight.total())
            if over := _over(self._budget.usd, self._budget.tokens, total):
                return _used_up(f"budget.{over[0]}", over[1]), True
        cap = self._caps.get(teacher)
        if cap is not None:
            spent = self._spent.get(teacher, Usage(0, 0, 0.0))
            projected = self._projected(spent, self._in_flight[teacher])
            if over := _over(cap.usd, cap.tokens, projected):
                return _used_up(f"teachers.{teacher}.budget.{over[0]}", over[1]), False
        return None

    def begin(self, teacher: str) -> None:
        """Count a request that goes out."""
        self._in_flight[teacher] += 1

    def end(self, teacher: str, tokens: int | None = None, usd: float | None = None) -> None:
        """Count a request that came back, with what it cost where it was answered."""
        self._in_flight[teacher] -= 1
        if tokens is not None:
            response = Usage(1, tokens, usd or 0.0)
            self._total = _sum(self._total, response)
            self._spent[teacher] = _sum(self._spent.get(teacher, Usage(0, 0, 0.0)), response)

    @staticmethod
    def _projected(spent: Usage, in_flight: int) -> Usage:
        """Return what is spent when all that is in flight, and one more, has come back."""
        more = (in_flight + 1) / spent.responses if spent.responses else 0.0
        return Usage(spent.responses, round(spent.tokens * (1 + more)), spent.usd * (1 + more))


def _sum(a: Usage, b: Usage) -> Usage:
    return Usage(a.responses + b.responses, a.tokens + b.tokens, a.usd + b.usd)


def _over(usd: float | None, tokens: int | None, spent: Usage) -> tuple[str, str] | None:
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
