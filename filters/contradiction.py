"""Drops traces whose reasoning concludes with one answer and whose final answer is another."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from pydantic import Field

from filters import math_answer
from filters._text.words import words
from filters.answers.boxed import final_answer
from filters.base import KEEP, Context, Decision, FilterConfig, cannot_tell, requires
from synth.core.record import Record, Task
from synth.core.text.boxed import boxes

# A conclusion stands at the end; what was said earlier may have been given up since.
_TAIL = 2000
_CLIP = 80
# What is said to be the answer: `$...$`, `\(...\)`, bold, a number, or the letter of a choice.
_STATED = re.compile(
    r"(?:\b(?:answer|result)\s+(?:is|should\s+be|must\s+be)|\banswer\s*:|答案\s*(?:应该|应)?\s*[是为：:])"
    r"\s{0,9}:?\s{0,9}(?:\$([^$\n]{1,200})\$|\\\(([^\n]{1,200}?)\\\)|\*\*([^*\n]{1,100})\*\*"
    r"|([-+]?\$?\d[\d,]{0,30}(?:\.\d{1,30})?(?:/\d{1,30})?\\?%?)|\(?\b([A-J])\b\)?(?!\s*[-+*/=^]))",
    re.IGNORECASE,
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_DOUBT = re.compile(
    r"\b(?:wait|hmm|hold on|actually|however|but|mistake|not right)\b|等等|不对|但是|然而",
    re.IGNORECASE,
)


class Config(FilterConfig):
    """Options of `contradiction`."""

    version = math_answer.Config.version  # it compares as that does

    cannot_tell: Literal["tag", "drop"] | None = Field(
        "tag", description="What follows where reasoning or answer state nothing to compare"
    )


class Statement(NamedTuple):
    """A final answer in a text: what it is, and where its statement ends."""

    answer: str
    end: int


class Contradiction:
    r"""Compares what the reasoning concludes with to the final answer, as `math_answer` compares.

    Read is the last statement in the last 2,000 characters of either: the last `\boxed{...}`, or
    `the answer is ...` (English or Chinese) with a number, mathematics, bold text or the letter of
    a choice, whichever comes later. In the answer also what follows `####`. It cannot tell where
    either states nothing, where the two cannot be compared (both in words, say), and where the
    reasoning doubts its conclusion (`wait`, `but`, ...) and gives no other.
    """

    def __init__(self, config: Config, context: Context) -> None:
        self._compare = math_answer.build(math_answer.Config(), context)

    def __call__(self, record: Record) -> Decision:
        """The verdict on one record."""
        reasoning = (record.reasoning or "")[-_TAIL:]
        if not reasoning.strip():
            return KEEP
        concluded = stated(reasoning)
        if concluded is None:
            return cannot_tell("the reasoning states no answer")
        answer = _final(record.answer[-_TAIL:])
        if not answer:
            return cannot_tell("no final answer found")
        evidence = {"reasoning": concluded.answer[:_CLIP], "answer": answer[:_CLIP]}
        task = Task("", "", f"\\boxed{{{concluded.answer}}}")
        same = self._compare(Record("", task, [], None, f"\\boxed{{{answer}}}"))
        if same.keep:
            return Decision(True, evidence=evidence)
        if same.keep is None or (_prose(concluded.answer) and _prose(answer)):
            return cannot_tell("the two cannot be compared", evidence)
        if doubt := _DOUBT.search(reasoning, concluded.end):
            return cannot_tell("the reasoning doubts its answer", {**evidence, "doubt": doubt[0]})
        both = f"{concluded.answer[:_CLIP]}, then {answer[:_CLIP]}"
        return Decision(False, f"contradiction: {' '.join(both.split())}", evidence=evidence)

    def close(self) -> None:
        """Ends the workers that compare."""
        self._compare.close()


def _prose(answer: str) -> bool:
    """Whether an answer is said in words, which may say the same in another way."""
    spoken = [word for word in words(_COMMAND.sub(" ", answer)) if len(word) > 1]
    return len(spoken) > 1 and not any(character.isdigit() for character in answer)


def _final(text: str) -> str:
    if statement := stated(text):
        return statement.answer
    return text.rpartition("####")[2].strip().partition("\n")[0] if "####" in text else ""


def stated(text: str) -> Statement | None:
    r"""The last answer that a text states.

    >>> stated("Thus the answer is $12$. Indeed.")
    Statement(answer='12', end=23)
    >>> stated(r"The answer is 12. No, \boxed{13}").answer
    '13'
    """
    filled = [box for box in boxes(text) if box[2].strip()]
    statements = list(_STATED.finditer(text))
    last = statements[-1] if statements else None
    if last and (not filled or last.end() > filled[-1][1]):
        return Statement(
            next(group for group in last.groups() if group).strip().lstrip("$"), last.end()
        )
    if filled and (answer := final_answer(text)):
        return Statement(answer, filled[-1][1])
    return None


check = requires("math-verify", "contradiction")
build = Contradiction
