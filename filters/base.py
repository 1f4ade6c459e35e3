"""What every filter is: a function from a record to a decision, and where it runs.

A filter's module defines

    class Config(FilterConfig)                    its options in YAML, `action` among them
    def build(config, context) -> Check           the function itself
    VERSION = 2                                   optional, 1 if not said: another one judges anew
    LEVEL = "question" | "trace" | "set"          optional, "trace" if not said
    MEASURES = {"share": "repetitive"}            optional: it gives figures, see below
    VERIFIES = True                               optional: it compares with the reference answer
    USES_STUDENT_TOKENS = True                    optional: it calls `context.count_tokens`
    USES_STUDENT = True                           optional: it calls `context.student`
    USES_EVAL_TASKS = True                        optional: it reads `context.eval_tasks`
    ASKS_TEACHER = True                           optional: it calls `context.ask`, and waits there
    ONE_PROCESS = True                            optional: it holds too much to run in each process
    def check(config) -> list[str]                optional: what this machine lacks for it
    def limit(config) -> float                    optional: seconds that it may take over one record
    def made_of(config) -> list[(name, options)]  optional: the filters that it is made of
    def memory(config, records) -> int            optional, of a set filter: bytes that it will hold
    def edit(config, record, evidence) -> None    optional: changes a record that is kept

A check that has a `close()` is closed with its chain; what it has in `notes`, a list of lines, is
shown and goes into the manifest. A flag holds also where a filter that it is made of has it. One
that takes longer than its limit over a record (120 s where it says nothing) is killed for it.

`question` filters see only the task and run before anything is bought: a question that cannot be
kept is never asked. `trace` filters see one record, run as answers arrive and count for
`until_verified`; they must be safe to call from several threads, and are pure: the same record
gives the same decision. Over a data set both run in several processes.

`set` filters judge a record by the others. What they build is a `SetCheck`: it is given a function
that starts a pass over the records (those that every filter before it keeps, in the data's order,
each with its verdicts so far) and gives a decision for each of them, in that order.

A filter with MEASURES gives `Figures` and decides nothing. The bounds are options of its `Config`,
`NAME_min` and `NAME_max` for the figure NAME, either of which may be missing or None. Bounds can
then be moved without measuring again. MEASURES gives, for each figure, the kind of the reason where
it is outside: one text, or two for below and above. Where there is nothing to measure it gives
`cannot_tell(why)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from synth.core.errors import UserError
from synth.core.plugins import PluginConfig
from synth.core.record import Message, Record, Task

Action = Literal["off", "tag", "drop"]


class FilterConfig(PluginConfig):
    """Base of every filter's `Config`."""

    action: Action = Field(
        "drop", description="What follows from its no: drop the record, tag it, or do not run (off)"
    )
    cannot_tell: Literal["tag", "drop"] | None = Field(
        None, description="What follows where it cannot tell; as `action` says by default"
    )

    @field_validator("action", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "off" if value is False else value  # `off` is a boolean in older YAML


class Decision(NamedTuple):
    """What a filter says of one record.

    Attributes:
        keep: Whether the record passes; None where nobody can tell.
        reason: Why not, or why nobody can tell: a kind that the funnel counts by, then optionally
            a colon and details (`wrong answer: 12, expected 13`).
        score: The figure that was compared with a threshold, where there is one.
        threshold: What it was compared with.
        evidence: What the decision rests on, as JSON values: spans, partners, failing cases.
    """

    keep: bool | None
    reason: str = ""
    score: float | None = None
    threshold: float | None = None
    evidence: Mapping[str, Any] | None = None


class Figures(NamedTuple):
    """What a measuring filter found in one record.

    Attributes:
        values: The figures by name; None where a figure has no meaning for this record.
        evidence: What they rest on, as JSON values.
    """

    values: Mapping[str, float | None]
    evidence: Mapping[str, Any] | None = None


Check = Callable[[Record], Decision | Figures]
SetCheck = Callable[[Callable[[], Iterator[Record]]], Iterator[Decision]]
Ask = Callable[[str, list[Message], dict[str, Any], int], str]

KEEP = Decision(True)


def cannot_tell(why: str, evidence: Mapping[str, Any] | None = None) -> Decision:
    """The third verdict: neither yes nor no, and why."""
    return Decision(None, f"cannot tell: {why}", None, None, evidence)


def decide(
    figures: Figures, config: FilterConfig, measures: Mapping[str, str | tuple[str, str]]
) -> Decision:
    """Holds figures to the bounds of a config.

    The first figure that is outside decides; score and threshold are its own. Where all are inside
    they are those of the first figure that has a bound and a value.

    Args:
        figures: What a filter measured.
        config: Its options, with `NAME_min` and `NAME_max` for some of the figures.
        measures: The filter's MEASURES.
    """
    inside: Decision | None = None
    options = vars(config)
    for name, kind in measures.items():
        value = figures.values.get(name)
        low, high = options.get(f"{name}_min"), options.get(f"{name}_max")
        if value is None or (low is None and high is None):
            continue
        below, above = (kind, kind) if isinstance(kind, str) else kind
        if low is not None and value < low:
            reason = f"{below}: {name} {value:.4g}, under {low:.4g}"
            return Decision(False, reason, value, low, figures.evidence)
        if high is not None and value > high:
            reason = f"{above}: {name} {value:.4g}, over {high:.4g}"
            return Decision(False, reason, value, high, figures.evidence)
        if inside is None:
            inside = Decision(True, "", value, high if high is not None else low, figures.evidence)
    return inside or Decision(True, "", None, None, figures.evidence)


def bounds(measures: Mapping[str, Any]) -> set[str]:
    """The names that options have which bound these figures, there or not."""
    return {f"{name}_{side}" for name in measures for side in ("min", "max")}


def _no_tokenizer(text: str) -> int:
    raise LookupError("no student tokenizer was given")


def _no_student() -> tuple[Any, Any]:
    raise LookupError("no student was given")


def _no_teachers(
    teacher: str, messages: list[Message], sampling: dict[str, Any], sample: int
) -> str:
    raise UserError(f"no teacher {teacher!r}: there is none to ask here")


@dataclass(slots=True)
class Context:
    """What a filter is handed instead of importing it.

    Attributes:
        count_tokens: Tokens of a text in the student's tokenizer.
        student: Gives the student: its model in evaluation mode, and its tokenizer.
        eval_tasks: The evaluation questions of this run.
        workers: How many processes or threads a filter may use.
        seed: The run's seed, for filters that draw.
        run: The run's name, for filters that remember from run to run.
        ask: The answer's text that a teacher gives: its name in the config, messages, sampling
            parameters, and which sample of this request it is. Waits for it. Raises `UserError`
            where there is no such teacher or it cannot be asked at all, `RuntimeError` where this
            request failed for good.
    """

    count_tokens: Callable[[str], int] = _no_tokenizer
    student: Callable[[], tuple[Any, Any]] = _no_student
    eval_tasks: list[Task] = field(default_factory=list)
    workers: int = 1
    seed: int = 0
    run: str = ""
    ask: Ask = _no_teachers
