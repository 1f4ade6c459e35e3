"""What every filter is: a function from a record to a decision, and the level at which it runs.

A filter's module defines

    class Config(PluginConfig)                    its options in YAML
    def build(config, context) -> Check           the function itself
    LEVEL = "question" | "trace" | "set"          optional, "trace" if not said
    VERIFIES = True                               optional: it compares with the reference answer
    USES_STUDENT_TOKENS = True                    optional: it needs `context.count_tokens`
    ASKS_TEACHER = True                           optional: it needs `context.ask`, and waits there
    def check(config) -> list[str]                optional: what this machine lacks for it

A check that has a `close()` is closed with its chain.

`question` filters see only the task and run before anything is bought: a question that cannot be
kept is never asked. `trace` filters see one record, run as answers arrive and count for
`until_verified`; they must be safe to call from several threads. `set` filters carry state from
record to record; they are called in the data's order, by one thread, on what is kept so far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from synth.errors import UserError
from synth.record import Message, Record, Task


class Decision(NamedTuple):
    """What a filter says of one record.

    Attributes:
        keep: Whether the record passes.
        reason: Why not: a kind that the funnel counts by, then optionally a colon and details
            (`wrong answer: 12, expected 13`).
        score: The figure that was compared with a threshold, where there is one.
    """

    keep: bool
    reason: str = ""
    score: float | None = None


Check = Callable[[Record], Decision]
Ask = Callable[[str, list[Message], dict[str, Any], int], str]

KEEP = Decision(True)


def _no_tokenizer(text: str) -> int:
    raise LookupError("no student tokenizer was given")


def _no_teachers(
    teacher: str, messages: list[Message], sampling: dict[str, Any], sample: int
) -> str:
    raise UserError(f"no teacher {teacher!r}: there is none to ask here")


@dataclass(slots=True)
class Context:
    """What a filter is handed instead of importing it.

    Attributes:
        count_tokens: Tokens of a text in the student's tokenizer.
        eval_tasks: The evaluation questions of this run.
        workers: How many processes or threads a filter may use.
        ask: The answer's text that a teacher gives: its name in the config, messages, sampling
            parameters, and which sample of this request it is. Waits for it. Raises `UserError`
            where there is no such teacher or it cannot be asked at all, `RuntimeError` where this
            request failed for good.
    """

    count_tokens: Callable[[str], int] = _no_tokenizer
    eval_tasks: list[Task] = field(default_factory=list)
    workers: int = 1
    ask: Ask = _no_teachers
