"""Keeps questions by how often a model solves them, or by a rate or level that the data states."""

from __future__ import annotations

import re
import threading
from concurrent.futures import Future
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from filters.base import Check, Context, Decision, Figures, FilterConfig, Measures, cannot_tell
from filters.engine.filter import FilterSpec, close_check, load_filters
from synth.config.generate import Sampling
from synth.config.plugin_entries import split_plugin
from synth.core.errors import UserError
from synth.core.prompts import load_prompt
from synth.core.reasoning import split_trace
from synth.core.record import Record, Task

_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?")
_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,15})?)(?:\s*/\s*(\d{1,9})|\s*(%))?")
_CLIP = 120


class Config(FilterConfig):
    """Options of `difficulty`."""

    filter_level = "question"
    needs = ("teacher",)
    measures: ClassVar[Measures] = {
        "pass_rate": ("too hard", "too easy"),
        "level": ("too easy", "too hard"),
    }

    teacher: str | None = Field(
        None, description="Who tries the questions: a name under `teachers`, such as the student"
    )
    samples: int = Field(4, ge=1, le=1000, description="How many answers of a question")
    template: str = Field("boxed.en", description="The prompt; its one variable is question")
    sampling: Sampling = Sampling(temperature=1.0, max_tokens=4096)
    verifier: str | dict[str, Any] = Field(
        "math_answer", description="The filter that says whether an answer is right"
    )
    pass_rate: str | None = Field(
        None, description="Key of the task's metadata with a rate, 0.25 or 8/32: nobody is asked"
    )
    level: str | None = Field(
        None, description="Key of the task's metadata with a level, such as 5 or Level 5"
    )
    pass_rate_min: float | None = Field(None, ge=0, le=1, description="Harder ones are dropped")
    pass_rate_max: float | None = Field(None, ge=0, le=1, description="Easier ones are dropped")
    level_min: float | None = Field(None, description="Lower levels are dropped")
    level_max: float | None = Field(None, description="Higher levels are dropped")

    @field_validator("template")
    @classmethod
    def _known(cls, template: str) -> str:
        try:
            if needed := set(load_prompt(template).variables) - {"question"}:
                raise ValueError(f"the prompt {template} needs {', '.join(sorted(needed))} as well")
        except UserError as error:
            raise ValueError(str(error)) from error
        return template

    @model_validator(mode="after")
    def _sense(self) -> Config:
        rate = self.pass_rate_min is not None or self.pass_rate_max is not None
        level = self.level_min is not None or self.level_max is not None
        if not rate and not level:
            raise ValueError("give a bound, such as pass_rate_max: 0.9")
        if rate and self.teacher is None and self.pass_rate is None:
            raise ValueError("a pass rate comes from a teacher or from pass_rate, a metadata key")
        if level and self.level is None:
            raise ValueError("level_min and level_max need level, the metadata key of the level")
        return self

    def sub_filters(self) -> list[tuple[str, dict[str, Any]]]:
        """The verifier, where answers are checked."""
        return [] if self.teacher is None else [split_plugin("filter", self.verifier)]


def build(config: Config, context: Context) -> Check:
    """The check, which measures a question's pass rate and level.

    A rate in the metadata is taken as it is, and nobody is asked. Else the teacher answers
    `samples` times and the verifier checks each answer; the rate is that of the right ones among
    those that are right or wrong. A question that the verifier cannot check at all is not asked,
    and others are asked once, however many traces they have.
    """
    return _Difficulty(config, context)


class _Difficulty:
    def __init__(self, config: Config, context: Context) -> None:
        self._config, self._context = config, context
        self._verify: Any = None
        if config.teacher is not None:
            self._prompt = load_prompt(config.template)
            name, options = split_plugin("filter", config.verifier)
            (self._verifier,) = load_filters([FilterSpec(name, {**options, "action": "drop"})])
            self._verify = self._verifier.build(context)
        self._rates: dict[str, Future[Decision | Figures]] = {}
        self._lock = threading.Lock()

    def __call__(self, record: Record) -> Decision | Figures:
        config, metadata = self._config, record.task.metadata
        values = {} if config.level is None else {"level": _level(metadata.get(config.level))}
        stated = None if config.pass_rate is None else _rate(metadata.get(config.pass_rate))
        if stated is not None:
            return Figures({"pass_rate": stated, **values})
        if self._verify is None:
            if config.pass_rate is not None:
                return cannot_tell(f"no rate in metadata.{config.pass_rate}")
            if values["level"] is None:
                return cannot_tell(f"no level in metadata.{config.level}")
            return Figures(values)
        outcome = self._measure_once(record.task)
        if isinstance(outcome, Figures):
            return outcome._replace(values={**outcome.values, **values})
        return outcome

    def close(self) -> None:
        close_check(self._verify)
        close_check(self._context.ask)

    def _measure_once(self, task: Task) -> Decision | Figures:
        """The rate of a question, asked by the first thread that comes; the others wait for it."""
        with self._lock:
            new = task.id not in self._rates
            future = self._rates.setdefault(task.id, Future())
        if new:
            try:
                future.set_result(self._measure(task))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def _measure(self, task: Task) -> Decision | Figures:
        if self._right(task, "") is None:
            return cannot_tell("the verifier cannot check this question")
        teacher, sampling = str(self._config.teacher), self._config.sampling
        messages = self._prompt.messages(task, {})
        verdicts, trouble = [], ""
        for sample in range(self._config.samples):
            try:
                reply = self._context.ask(teacher, messages, sampling.parameters(sample), sample)
            except RuntimeError as error:
                trouble = " ".join(str(error).split())[:_CLIP]
                continue
            verdicts.append(self._right(task, reply))
        if not verdicts:
            return cannot_tell(f"the teacher does not answer: {trouble}")
        right = verdicts.count(True)
        of = right + verdicts.count(False)
        if not of:
            return cannot_tell("no answer to the question could be verified")
        evidence = {"right": right, "of": of, "asked": self._config.samples}
        return Figures({"pass_rate": right / of}, evidence)

    def _right(self, task: Task, reply: str) -> bool | None:
        reasoning, answer = split_trace(reply)
        record = Record(task.id, task, [], reasoning, answer)
        return self._verifier.verdict(self._verifier.judge(self._verify, record)).keep


def _rate(value: Any) -> float | None:
    """A pass rate as data sets write it: 0.25, "8/32" or "25%"; None where it is no such thing."""
    if isinstance(value, bool) or value is None:
        return None
    match = _RATE.fullmatch(str(value).strip())
    if match is None:
        return None
    rate = float(match[1]) / (int(match[2]) or 1 if match[2] else 100 if match[3] else 1)
    return rate if 0 <= rate <= 1 else None


def _level(value: Any) -> float | None:
    """The first number of a level: 5, "5" or "Level 5"; None where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    match = _NUMBER.search(str(value)[:1000])
    return float(match[0]) if match else None
