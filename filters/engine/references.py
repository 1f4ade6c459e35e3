"""Finds verifiers that can pass no answer to a question, as it gives nothing to compare with."""

from __future__ import annotations

from collections.abc import Iterable

from filters.base import Check
from filters.engine.filter import Filter
from synth.core.record import Record, Task

# What a verifier says of a question, whatever the answer: nothing is there to verify it by.
_NOTHING = {
    f"cannot tell: {why}"
    for why in ("no reference answer", "no tests", "the metadata names no generator")
}


def cannot_pass(checks: Iterable[tuple[Filter, Check]], task: Task) -> tuple[str, str] | None:
    """The first verifier that drops every answer to a question for lack of a reference, and why.

    None where there is none such: it tags what it cannot tell, a model judges, or there is a
    reference. No teacher is asked.
    """
    record = Record(task.id, task, [], None, "")
    for loaded, check in checks:
        if not loaded.config.verifies or loaded.needs("teacher"):
            continue
        outcome = loaded.judge(check, record)
        verdict = loaded.verdict(outcome, 0.0)
        # A filter that asks several verifiers says what each of them said.
        asked = (outcome.evidence or {}).get("asked", ())
        reasons = [entry["said"] for entry in asked] or [verdict.reason]
        if verdict.keep is None and verdict.drops and _NOTHING.issuperset(reasons):
            return loaded.name, verdict.reason.removeprefix("cannot tell: ")
    return None
