"""Keeps traces whose final answer equals the reference as mathematics (by math-verify)."""

from __future__ import annotations

import importlib.util
import re

from pydantic import Field

from filters import _math_worker
from filters._text import boxes
from filters._workers import WorkerLost, Workers
from filters.contract import Context, Decision
from synth.errors import MissingPackage
from synth.plugins import PluginConfig
from synth.record import Record

VERIFIES = True

# Where no box is, the last expression counts, and it stands in the last words.
_TAIL = 2000
# No final answer is longer; nor would it be compared within the limit.
_LONGEST = 2000
_SHOWN = 60

_JOINT = re.compile(r"(?:[\s$,;.，、。；()\[\]\\]|\band\b|\bor\b|和|或|与)*")
_AND = re.compile(r"[,;，、；和或与]|and|or")
_PLAIN_NOISE = re.compile(r"\\(?:left|right)(?![A-Za-z])|\\[!,;: ]|\\?\$")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}")
_LOOSE_BLANK = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+")
_INTEGER = re.compile(r"[+-]?[0-9]{1,400}")

_workers = Workers(_math_worker.prepare)


class Config(PluginConfig):
    """Options of `math_answer`."""

    timeout: float = Field(5, gt=0, le=600, description="Seconds that one comparison may take")
    require_box: bool = Field(
        False, description="Only \\boxed{...} counts; else the last expression where no box is"
    )


def check(config: Config) -> list[str]:
    """What this machine lacks for the filter."""
    return [
        str(MissingPackage(package.replace("_", "-"), "the filter math_answer"))
        for package in ("math_verify", "pebble")
        if importlib.util.find_spec(package) is None
    ]


def build(config: Config, context: Context) -> MathAnswer:
    """The check; see `MathAnswer`."""
    return MathAnswer(config, context.workers)


class MathAnswer:
    r"""Three verdicts: correct, wrong, and `cannot tell` with the cause; only the first keeps.

    Read is the answer, not the reasoning; where a trace has no reasoning the answer is all of it.
    The last `\boxed{...}` counts, or the last few where nothing but `and` or a comma stands between
    them. Without a box it is the last expression that math-verify finds in the last 2,000
    characters, where phrases such as "the answer is" go before. The reference may be bare LaTeX,
    stand between dollars or in a box, or follow the `####` of a worked solution.

    Equal texts, and whole numbers in a box, are compared here; all else in worker processes that
    are killed at the limit, so a time-out, a crash or an expression that cannot be read is
    `cannot tell` and never `wrong`. An answer in which nothing is found is `no answer found`.

    50% is taken for equal to 50 and to 0.5, as math-verify has it.
    """

    def __init__(self, config: Config, workers: int) -> None:
        self._config = config
        self._open = True
        _workers.open(max(1, workers))

    def __call__(self, record: Record) -> Decision:
        """The verdict on one record."""
        reference = _core(record.task.answer or "")
        if not reference:
            return Decision(False, "cannot tell: no reference answer")
        contents = final_boxes(record.answer)
        if self._config.require_box and not contents:
            return Decision(False, "no answer found")
        if len(contents) == 1:
            settled = _by_text(contents[0], reference)
            if settled is not None:
                return settled
        if max(len(reference), sum(map(len, contents))) > _LONGEST:
            return Decision(False, "cannot tell: too long to compare")
        # A model that was taught on GSM8K writes its answer as the references there are written.
        tail = "" if contents else record.answer[-_TAIL:].rpartition("####")[2]
        if not contents and not tail.strip():
            return Decision(False, "no answer found")
        return self._by_worker(reference, contents, tail)

    def _by_worker(self, reference: str, contents: list[str], tail: str) -> Decision:
        limit = self._config.timeout
        try:
            status, got = _workers.call(
                _math_worker.compare, reference, contents, tail, limit=limit
            )
        except TimeoutError:
            return Decision(False, f"cannot tell: timed out after {limit:g} s")
        except WorkerLost as error:
            return Decision(False, f"cannot tell: {error}")
        except (Exception, RecursionError, MemoryError) as error:
            return Decision(False, f"cannot tell: {type(error).__name__} in math-verify")
        if status == "correct":
            return Decision(True, "", 1.0)
        if status == "wrong":
            return _wrong(got, reference)
        if status == "nothing found":
            return Decision(False, "no answer found")
        return Decision(False, f"cannot tell: {status}")

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
    contents = list(dict.fromkeys(content.strip() for _, _, content in together))
    return contents if len(contents) <= 5 else contents[-1:]


def _joined(between: str) -> bool:
    """Whether what stands between two boxes makes them one answer."""
    return (
        len(between) <= 20
        and "\n\n" not in between
        and _JOINT.fullmatch(between) is not None
        and _AND.search(between) is not None
    )


def _core(reference: str) -> str:
    """The reference without the worked solution, the box or the dollars around it."""
    reference = reference.rpartition("####")[2].strip()
    found = final_boxes(reference)
    if found:
        return found[-1] if len(found) == 1 else ", ".join(found)
    return reference


def _by_text(answer: str, reference: str) -> Decision | None:
    """The verdict where the texts alone decide, else None."""
    got, expected = _plain(answer), _plain(reference)
    if got and got == expected:
        return Decision(True, "", 1.0)
    if _INTEGER.fullmatch(got) and _INTEGER.fullmatch(expected):
        return Decision(True, "", 1.0) if int(got) == int(expected) else _wrong(answer, reference)
    return None


def _plain(text: str) -> str:
    r"""A short answer free of typesetting that never changes what it is.

    >>> _plain(r"$\dfrac{1}{2}$.") == _plain(r"\frac{1}{2}")
    True
    """
    text = _PLAIN_NOISE.sub("", text.replace("dfrac", "frac").replace("tfrac", "frac"))
    text = _LOOSE_BLANK.sub("", _TEXT.sub(r"\1", text)).strip().rstrip(".")
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


def _wrong(got: str, expected: str) -> Decision:
    return Decision(False, f"wrong answer: got {_shown(got)}, expected {_shown(expected)}", 0.0)


def _shown(text: str) -> str:
    """A text on one short line, with nothing in it that a terminal or a file would choke on."""
    text = "".join(c if c.isprintable() else " " for c in text[: 4 * _SHOWN])
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
