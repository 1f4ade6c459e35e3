"""Base of filters: `FilterConfig`, the decisions that a filter gives, and what it is handed.

A filter's module defines

    class Config(FilterConfig)                    its options in YAML, and facts for the engine
    def build(config, context) -> Check           the function itself
    def check(config) -> list[str]                optional: what this machine lacks for it
    def memory(config, records) -> int            optional, of a set filter: bytes that it will hold
    def edit(config, record, evidence) -> None    optional: changes a record that is kept

A check that has a `close()` is closed with its chain; what it has in `notes`, a list of lines, is
shown and goes into the manifest.

`question` filters see only the task and run before anything is bought: a question that cannot be
kept is never asked. `trace` filters see one record, run as answers arrive and count for
`until_verified`; they must be safe to call from several threads, and are pure: the same record
gives the same decision. Over a data set both run in several processes.

`set` filters judge a record by the others. What they build is a `SetCheck`: it is given a function
that starts a pass over the records (those that every filter before it keeps, in the data's order,
each with its verdicts so far) and gives a decision for each of them, in that order.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator

from synth.core.errors import UserError, nearest
from synth.core.errors import lacks_package as lacks_package
from synth.core.plugins import PluginConfig
from synth.core.record import Message, Record, Task

Action = Literal["off", "tag", "drop"]
Level = Literal["question", "trace", "set"]
Need = Literal["student_tokens", "student", "eval_tasks", "teacher", "one_process", "sandbox"]
Measures = Mapping[str, str | tuple[str, str]]


class FilterConfig(PluginConfig):
    """Base of every filter's `Config`: options as fields, and class variables for the engine.

    Attributes:
        filter_level: What the filter judges: a question, a trace, or a trace by the others.
        version: Version of its code. Another version judges all records anew.
        needs: What it uses: `student_tokens` (calls `context.count_tokens`), `student` and
            `eval_tasks` (those of the context), `teacher` (calls `context.ask`, and waits there),
            `one_process` (holds too much to run in each process), `sandbox` (runs code there; its
            module's `warn(config)` says where there is none).
        measures: The figures of a filter that gives `Figures`, each with the kind of the reason
            where it is out of bounds: one text, or two for below and above. The bounds of NAME are
            the options `NAME_min` and `NAME_max`, either of which may be missing or None; they can
            be moved without measuring again.
        verifies: Whether it compares with the reference answer.

    Example:
        >>> class Config(FilterConfig):
        ...     measures: ClassVar[Measures] = {"words": ("too short", "too long")}
        ...     words_max: int = 500
        >>> Config().measures["words"]
        ('too short', 'too long')
    """

    filter_level: ClassVar[Level] = "trace"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[Need, ...]] = ()
    measures: ClassVar[Measures] = {}
    verifies: ClassVar[bool] = False

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

    def limit(self) -> float | None:
        """Seconds after which it is killed over one record.

        None is the sum of its sub-filters' limits, or 120 where they have none.
        """
        return None

    def sub_filters(self) -> list[tuple[str, dict[str, Any]]]:
        """The filters that it is made of, as name and options; it needs what they need."""
        return []

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Raises UserError for a misspelt class variable or method, or an option named like one."""
        super().__pydantic_init_subclass__(**kwargs)
        methods = {"limit", "sub_filters"}
        flags = methods | FilterConfig.__class_vars__
        label = f"{cls.__module__}.{cls.__qualname__}"
        if taken := flags & cls.model_fields.keys():
            raise UserError(f"{label}: {min(taken)!r} is no name for an option; give it an alias")
        variables = {name for name in cls.__class_vars__ if not name.startswith("_")}
        for name in sorted(variables - flags):
            raise UserError(f"{label}: unknown class variable {name!r}{nearest(name, flags)}")
        functions = {name for name, value in vars(cls).items() if inspect.isfunction(value)}
        for name in functions - flags:
            if close := difflib.get_close_matches(name, methods, n=1, cutoff=0.8):
                raise UserError(f"{label}: unknown method {name!r}; did you mean {close[0]!r}?")


class Decision(NamedTuple):
    """What a filter says of one record.

    Attributes:
        keep: Whether the record passes; None where nobody can tell.
        reason: Why not, or why nobody can tell: a kind that the funnel counts by, then optionally
            a colon and details (`wrong answer: 12, expected 13`).
        score: The figure that was compared with the threshold, where there is one.
        threshold: Its bound.
        evidence: What the decision rests on, as JSON values: spans, partners, failing cases.
    """

    keep: bool | None
    reason: str = ""
    score: float | None = None
    threshold: float | None = None
    evidence: Mapping[str, Any] | None = None


class Figures(NamedTuple):
    """What a filter measured in one record: figures by name (None: no meaning here), and evidence.

    Where there is nothing to measure at all the filter gives `cannot_tell(why)` instead.
    """

    values: Mapping[str, float | None]
    evidence: Mapping[str, Any] | None = None


Check = Callable[[Record], Decision | Figures]
SetCheck = Callable[[Callable[[], Iterator[Record]]], Iterator[Decision]]
Ask = Callable[[str, list[Message], dict[str, Any], int], str]

KEEP = Decision(True)


# What a filter says of code that it has nowhere to run. Other records it judges, and this one where
# there is a sandbox: it is no outcome that is kept (`needs = ("sandbox",)`).
NO_SANDBOX = "cannot tell: no sandbox"


def cannot_tell(why: str, evidence: Mapping[str, Any] | None = None) -> Decision:
    """The third verdict: neither yes nor no, and why."""
    return Decision(None, f"cannot tell: {why}", None, None, evidence)


def decide(figures: Figures, config: FilterConfig, measures: Measures | None = None) -> Decision:
    """Holds figures to the bounds of a config, for the figures of `measures` (else the config's).

    The first figure that is outside decides; score and threshold are its own. Where all are inside
    they are those of the first figure that has a bound and a value.
    """
    inside: Decision | None = None
    options = vars(config)
    for name, kind in (config.measures if measures is None else measures).items():
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


def requires(
    package: str, filter_name: str, extra: str | None = None
) -> Callable[[Any], list[str]]:
    """The `check` of a filter that needs this package and nothing else."""
    return lambda config: lacks_package(package, f"the filter {filter_name}", extra)


def bounds(measures: Measures) -> set[str]:
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
        ask: Waits for a teacher's answer as text; takes the teacher's name in the config, messages,
            sampling parameters, and which sample of this request it is. Raises `UserError` where
            the teacher cannot be asked at all, `RuntimeError` where this request failed for good.
    """

    count_tokens: Callable[[str], int] = _no_tokenizer
    student: Callable[[], tuple[Any, Any]] = _no_student
    eval_tasks: list[Task] = field(default_factory=list)
    workers: int = 1
    seed: int = 0
    run: str = ""
    ask: Ask = _no_teachers
