"""Keeps traces whose final answer equals the reference as mathematics (by math-verify)."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

from pydantic import Field

from filters import _math_worker
from filters._math_text import plain, rational, visible
from filters._workers import CallFailed, WorkerLost, Workers, longest
from filters.contract import Context, Decision, FilterConfig, cannot_tell
from synth.core.boxed import boxes
from synth.core.display import shown
from synth.core.errors import MissingPackage
from synth.core.record import Record

VERIFIES = True
VERSION = 2

# Where no box is, the last expression counts, and it stands in the last words.
_TAIL = 2000
# No final answer is longer; nor would it be compared within the limit.
_LONGEST = 2000
# Boxes stand at the end: a text longer than a million characters is read from there.
_READ = 1_000_000
# Numbers that are further apart than this share of the greater are not one number rounded.
_NEAR = 1e-3

_JOINT = re.compile(r"(?:[\s$,;.，、。；()\[\]\\]|\band\b|\bor\b|和|或|与)*")
_AND = re.compile(r"[,;，、；和或与]|and|or")

_workers = Workers(_math_worker.prepare)


class Config(FilterConfig):
    """Options of `math_answer`."""

    timeout: float = Field(5, gt=0, le=600, description="Seconds that one comparison may take")
    require_box: bool = Field(
        False, description="Only \\boxed{...} counts; else the last expression where no box is"
    )


def check(config: Config) -> list[str]:
    """What this machine lacks for the filter."""
    if importlib.util.find_spec("math_verify") is None:
        return [str(MissingPackage("math-verify", "the filter math_answer"))]
    return []


def limit(config: Config) -> float:
    """Seconds that one record may take: a lost worker is replaced once."""
    return longest(config.timeout)


def build(config: Config, context: Context) -> MathAnswer:
    """The check; see `MathAnswer`."""
    return MathAnswer(config, context.workers)


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

    def __init__(self, config: Config, workers: int) -> None:
        self._config = config
        self._open = True
        _workers.open(max(1, workers))

    def __call__(self, record: Record) -> Decision:
        """The verdict on one record."""
        reference = core(record.task.answer or "")
        if not reference:
            return cannot_tell("no reference answer")
        answer = visible(record.answer[-_READ:])
        contents = final_boxes(answer)
        if self._config.require_box and not contents:
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
        limit = self._config.timeout
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


def final_boxes(answer: str) -> list[str]:
    r"""What the last boxes of an answer hold: one, or several that are given together.

    >>> final_boxes(r"First \boxed{1}. So $\boxed{2}$ and $\boxed{3}$.")
    ['2', '3']
    """
    found = [box for box in boxes(answer) if box[2].strip()]
    first = len(found) - 1
    while first > 0 and _joined(answer[found[first - 1][1] : found[first][0]]):
        first -= 1
    together = found[max(0, first) :]
    # A box that is given twice over is one answer.
    contents = list(dict.fromkeys(_innermost(content) for _, _, content in together))
    return contents if len(contents) <= 5 else contents[-1:]


def _innermost(content: str) -> str:
    """What a box holds, or the last box within it where there is one."""
    last = content.rfind("\\boxed")
    inner = boxes(content[last:]) if last >= 0 else []
    return (inner[0][2].strip() if inner else "") or content.strip()


def _joined(between: str) -> bool:
    """Whether what stands between two boxes makes them one answer."""
    return (
        len(between) <= 20
        and "\n\n" not in between
        and _JOINT.fullmatch(between) is not None
        and _AND.search(between) is not None
    )


def core(reference: str) -> str:
    r"""A reference without the worked solution, the box or the dollars around it.

    >>> core("6 * 7 = 42 #### $42$")
    '$42$'
    """
    reference = visible(reference[-_READ:]).rpartition("####")[2].strip()
    found = final_boxes(reference)
    return ", ".join(found) if found else reference


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
