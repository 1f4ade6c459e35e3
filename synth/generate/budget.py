"""Placeholder."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from synth.config.generate import Budget
from synth.core.errors import DistillError, Unfinished
from synth.store.usage import Usage
from synth.teachers.base import Cap


class BudgetTracker:
    """What may be spent: by the run, and on each teacher.

    What is in flight is reckoned in at the mean of what came so far, so that a run ends near its
    cap and not a window beyond it.

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
        self._total = (
            Usage(*map(sum, zip(*spent.values(), strict=True))) if spent else Usage(0, 0, 0)
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
                self._spent.get(teacher, Usage(0, 0, 0.0)), self._in_flight[teacher]
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
            one = Usage(1, tokens, usd or 0.0)
            self._total = _sum(self._total, one)
            self._spent[teacher] = _sum(self._spent.get(teacher, Usage(0, 0, 0.0)), one)

    @staticmethod
    def _reckoned(spent: Usage, in_flight: int) -> Usage:
        """What it will be when all that is in flight, and one more, has come back."""
        more = (in_flight + 1) / spent.responses if spent.responses else 0.0
        return Usage(spent.responses, round(spent.tokens * (1 + more)), spent.usd * (1 + more))


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(one.responses + other.responses, one.tokens + other.tokens, one.usd + other.usd)


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
