"""Alarm on money that burns: the filters keep none of the first answers."""

from __future__ import annotations

from collections import Counter

from synth.core.record import Record
from synth.generate.client import ResponseClient

# So many dropped answers, to so many different questions, with none kept.
ANSWERS, QUESTIONS = 50, 10
_REASONS_SHOWN = 6


class NoneKeptAlarm:
    """Watches the verdicts on answers as they come; once one is kept, it is at rest for good.

    An answer of which no filter could tell whether it is right is neither kept nor dropped.
    """

    def __init__(self, client: ResponseClient) -> None:
        self._client = client
        self._dropped: dict[str, str] = {}  # why, by the record's id: a vote has one judged again
        self._questions: set[str] = set()
        self._over = client.spec.alarm == "off" or client.spec.check is None

    def see(self, record: Record) -> None:
        """Takes in a judged answer."""
        if self._over:
            return
        dropped_by = next((v for v in record.verdicts if v.drops and v.keep is False), None)
        if record.rejected_by is None:
            self._over = True
        elif dropped_by is not None:
            self._dropped[record.id] = f"{dropped_by.filter}: {dropped_by.kind}"
            self._questions.add(record.task.id)
            questions = min(QUESTIONS, self._client.counts.questions_total or QUESTIONS)
            if len(self._dropped) >= ANSWERS and len(self._questions) >= questions:
                self._over = True
                self._client.alarm(self._text())

    def _text(self) -> str:
        counted = Counter(self._dropped.values()).most_common(_REASONS_SHOWN)
        reasons = ", ".join(f"{reason} {count}" for reason, count in counted)
        return (
            f"the filters kept none of the first {len(self._dropped)} answers ({reasons}): a "
            "filter does not fit the answers, the prompt does not ask for what it wants, or the "
            "questions are too hard; `distill preview` shows answers with their verdicts"
        )
