"""Budget tracker: what a run has spent, and whether a cap is reached."""

from __future__ import annotations

import functools
import time
from collections import Counter, defaultdict
from collections.abc import Mapping

from synth.config.generate import Budget
from synth.core.errors import DistillError, Unfinished
from synth.store.usage import Usage
from synth.teachers.base import Cap


class BudgetTracker:
    """Tracks what is spent against the caps of the run and of single teachers.

    Requests in flight count at the mean of what came so far. So a run ends near its cap, and not
    a window beyond it. `spent` is what this run bought before, by teacher.
    """

    def __init__(
        self, budget: Budget | None, caps: Mapping[str, Cap], spent: Mapping[str, Usage]
    ) -> None:
        self._budget, self._caps = budget, caps
        self._spent = defaultdict(Usage, spent)
        self._total = functools.reduce(_sum, spent.values(), Usage())
        self._in_flight: Counter[str] = Counter()
        self._began = time.monotonic()

    def exceeded_cap(self, teacher: str) -> tuple[DistillError, bool] | None:
        """Return why nothing more may be sent to a teacher, and whether that holds for all."""
        if (budget := self._budget) is not None:
            if budget.hours and time.monotonic() > self._began + 3600 * budget.hours:
                return _used_up("budget.hours", f"{budget.hours:g} h"), True
            if over := _over("budget", budget, self._total, self._in_flight.total()):
                return over, True
        if (cap := self._caps.get(teacher)) is not None:
            key, spent = f"teachers.{teacher}.budget", self._spent[teacher]
            if over := _over(key, cap, spent, self._in_flight[teacher]):
                return over, False
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
            self._spent[teacher] = _sum(self._spent[teacher], response)


def _sum(a: Usage, b: Usage) -> Usage:
    return Usage(a.responses + b.responses, a.tokens + b.tokens, a.usd + b.usd)


def _over(key: str, cap: Budget | Cap, spent: Usage, in_flight: int) -> Unfinished | None:
    """Return the error where all that is in flight, and one more, come to more than a cap."""
    factor = 1 + (in_flight + 1) / spent.responses if spent.responses else 1.0
    if cap.tokens is not None and round(spent.tokens * factor) > cap.tokens:
        return _used_up(f"{key}.tokens", f"{cap.tokens:,} tokens")
    if cap.usd is not None and spent.usd * factor > cap.usd:
        return _used_up(f"{key}.usd", f"${cap.usd:g}")
    return None


def _used_up(key: str, cap: str) -> Unfinished:
    return Unfinished(
        f"{key}: the cap of {cap} is reached; all that was bought is stored, "
        "and a run with a higher cap goes on from here"
    )
