"""Equivalence of two answers as mathematics: by their text, then by math-verify in workers."""

from __future__ import annotations

from typing import Any

from filters._text.math import plain, rational, visible
from filters._workers import math as _math_worker
from filters._workers.pool import CallFailed, WorkerLost, Workers
from filters.answers.boxed import _READ, core, final_boxes
from filters.base import Decision, cannot_tell
from synth.core.display import shown
from synth.core.record import Record

# Where no box is, the last expression counts, and it stands in the last words.
_TAIL = 2000
# No final answer is longer; nor would it be compared within the limit.
_LONGEST = 2000
# Numbers that are further apart than this share of the greater are not one number rounded.
_NEAR = 1e-3

_workers = Workers(_math_worker.prepare)


class MathAnswer:
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

    def __init__(self, timeout_s: float, require_box: bool, workers: int) -> None:
        self._timeout_s = timeout_s
        self._require_box = require_box
        self._open = True
        _workers.open(max(1, workers))

    def __call__(self, record: Record) -> Decision:
        """The verdict on one record."""
        reference = core(record.task.answer or "")
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
        limit = self._timeout_s
        said = _evidence(" and ".join(contents), reference, "math-verify")
        try:
            status, got, parsed = _workers.call(
                _math_worker.compare, reference, contents, tail, limit=limit
            )
        except TimeoutError:
            return cannot_tell(f"timed out after {limit:g} s", said)
        except WorkerLost as error:
            return cannot_tell(str(error), said)
        except CallFailed as error:
            return cannot_tell(f"{error.kind} in math-verify", said)
        said["answer"] = shown(got or said["answer"])
        if parsed is not None:
            said["parsed_answer"], said["parsed_reference"] = map(shown, parsed)
        if status == "correct":
            return Decision(True, "", 1.0, None, said)
        if status == "wrong":
            return _wrong(said)
        if status == "nothing found":
            return Decision(False, "no answer found")
        return cannot_tell(status, said)

    def close(self) -> None:
        """Ends the workers, unless another check in this process has use for them."""
        if self._open:
            self._open = False
            _workers.close()


def _by_text(answer: str, reference: str) -> Decision | None:
    """The verdict where the texts alone decide, else None."""
    got, expected = plain(answer[: _LONGEST + 1]), plain(reference[: _LONGEST + 1])
    if got and got == expected and max(len(answer), len(reference)) <= _LONGEST:
        return Decision(True, "", 1.0, None, _evidence(answer, reference, "text"))
    one, other = rational(got), rational(expected)
    if one is None or other is None:
        return None
    said = _evidence(answer, reference, "numbers")
    if one == other:
        return Decision(True, "", 1.0, None, said)
    whole = one.denominator == other.denominator == 1
    if whole or abs(one - other) > _NEAR * max(abs(one), abs(other)):
        return _wrong(said)
    return None  # one may be the other, rounded: the library's rules hold


def _evidence(answer: str, reference: str, by: str) -> dict[str, Any]:
    return {"answer": shown(answer), "reference": shown(reference), "by": by}


def _wrong(said: dict[str, Any]) -> Decision:
    reason = f"wrong answer: got {said['answer']}, expected {said['reference']}"
    return Decision(False, reason, 0.0, None, said)
