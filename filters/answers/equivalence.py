"""Equivalence of two answers as mathematics: by their text, then by math-verify in workers."""

from __future__ import annotations

import functools
from typing import Any

from filters._text.math import plain, rational, visible
from filters._workers import math as _math_worker
from filters._workers.pool import Workers
from filters._workers.verifier import WorkerVerifier
from filters.answers.boxed import bare_reference, final_boxes
from filters.base import Decision, cannot_tell
from synth.core.record import Record, Task
from synth.core.text.display import shown

# Boxes stand at the end: a text longer than a million characters is read from there.
_READ = 1_000_000
# Where no box is, the last expression counts, and it stands in the last words.
_TAIL = 2000
# No final answer is longer; nor would it be compared within the limit.
_LONGEST = 2000
# Numbers that are further apart than this share of the greater are not one number rounded.
_NEAR = 1e-3


class MathAnswer(WorkerVerifier):
    r"""Three verdicts: correct, wrong, and `cannot tell` with the cause.

    Read is the answer, not the reasoning; where a trace has no reasoning the answer is all of it.
    The last `\boxed{...}` counts, or the last few where nothing but `and` or a comma stands between
    them; of boxes within each other it is the innermost. Without a box it is the last expression
    that math-verify finds in the last 2,000 characters, where phrases such as "the answer is" go
    before. The reference may be bare LaTeX, stand between dollars or in a box, or follow the `####`
    of a worked solution.

    Equal texts, and plain numbers in a box, are compared here; all else in worker processes that
    are killed at the limit, so a time-out, a crash or an expression that cannot be read is
    `cannot tell` and never `wrong`. An answer in which nothing is found is `no answer found`, a no.
    The evidence says what was understood of both and what decided (`text`, `numbers`,
    `math-verify`).

    50% is taken for equal to 50 and to 0.5, as math-verify has it.
    """

    package = "math-verify"
    workers = Workers(_math_worker.prepare)

    def __init__(self, timeout_s: float, require_box: bool, workers: int) -> None:
        super().__init__(timeout_s, workers)
        self._require_box = require_box

    def __call__(self, record: Record) -> Decision:
        """The verdict on one record."""
        reference = bare_reference(visible((record.task.answer or "")[-_READ:]))
        if not reference:
            return cannot_tell("no reference answer")
        answer = visible(record.answer[-_READ:])
        contents = final_boxes(answer)
        if self._require_box and not contents:
            return Decision(False, "no answer found")
        if len(contents) == 1:
            settled = _by_text(contents[0], reference)
            if settled is not None:
                return settled
        if max(len(reference), sum(map(len, contents))) > _LONGEST:
            return cannot_tell("too long to compare")
        # A model that was taught on GSM8K writes its answer as the references there are written.
        tail = "" if contents else answer[-_TAIL:].rpartition("####")[2]
        if not contents and not tail.strip():
            return Decision(False, "no answer found")
        return self._by_worker(reference, contents, tail)

    def _by_worker(self, reference: str, contents: list[str], tail: str) -> Decision:
        evidence = _evidence(" and ".join(contents), reference, "math-verify")
        outcome = self.call(_math_worker.compare, reference, contents, tail, evidence=evidence)
        if isinstance(outcome, Decision):
            return outcome
        status, answer, parsed = outcome
        evidence["answer"] = shown(answer or evidence["answer"])
        if parsed is not None:
            evidence["parsed_answer"], evidence["parsed_reference"] = map(shown, parsed)
        if status == "correct":
            return Decision(True, "", 1.0, None, evidence)
        if status == "wrong":
            return _wrong(evidence)
        if status == "nothing found":
            return Decision(False, "no answer found")
        return cannot_tell(status, evidence)


def equivalent(reference: str, answer: str) -> bool:
    r"""Returns whether two final answers are equal as `math_answer` has it.

    Its worker starts when texts alone do not decide.

    >>> equivalent("1/2", r"\frac{1}{2}")
    True
    """
    record = Record("", Task("", "", reference), [], None, f"\\boxed{{{answer}}}")
    return _comparison()(record).keep is True


@functools.cache
def _comparison() -> MathAnswer:
    # Never closed: a vote comes every few seconds, and a worker takes longer to start than to
    # compare; an idle one ends with this process.
    return MathAnswer(timeout_s=5, require_box=False, workers=1)


def _by_text(answer: str, reference: str) -> Decision | None:
    """The verdict where the texts alone decide, else None."""
    plain_answer, plain_reference = plain(answer[: _LONGEST + 1]), plain(reference[: _LONGEST + 1])
    short = max(len(answer), len(reference)) <= _LONGEST
    if short and plain_answer and plain_answer == plain_reference:
        return Decision(True, "", 1.0, None, _evidence(answer, reference, "text"))
    number, expected = rational(plain_answer), rational(plain_reference)
    if number is None or expected is None:
        return None
    evidence = _evidence(answer, reference, "numbers")
    if number == expected:
        return Decision(True, "", 1.0, None, evidence)
    whole = number.denominator == expected.denominator == 1
    if whole or abs(number - expected) > _NEAR * max(abs(number), abs(expected)):
        return _wrong(evidence)
    return None  # one may be the other, rounded: the library's rules hold


def _evidence(answer: str, reference: str, by: str) -> dict[str, Any]:
    return {"answer": shown(answer), "reference": shown(reference), "by": by}


def _wrong(evidence: dict[str, Any]) -> Decision:
    reason = f"wrong answer: got {evidence['answer']}, expected {evidence['reference']}"
    return Decision(False, reason, 0.0, None, evidence)
