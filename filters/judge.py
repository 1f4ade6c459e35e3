"""Scores traces by a rubric, or compares them with a reference solution: a teacher judges.

Its reply is held to a JSON form.
"""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from filters.base import Ask, Check, Context, Decision, Figures, FilterConfig, Measures, cannot_tell
from filters.engine.filter import close_check
from synth.config.generate import Sampling
from synth.core.errors import UserError
from synth.core.prompts import load_prompt
from synth.core.reasoning import join_trace
from synth.core.record import Message, Record, digest
from synth.core.text.display import shown

_LONGEST = 20_000  # a judgement is a few sentences; a longer reply is not read
_CLIP = 200
_SAMPLES = 2  # so often a reply is asked for before it counts as not to be had
_POINTS = {"first": 1.0, "tie": 0.5, "second": 0.0}  # of the solution that is shown first
_RUBRIC = "Is the reasoning sound, complete and to the point, and does the answer follow from it?"

Structured = Literal["json_schema", "json_object", "none"]
T = TypeVar("T")


class Config(FilterConfig):
    """Options of `judge`."""

    version = 2
    needs = ("teacher",)
    measures: ClassVar[Measures] = {"score": "low score"}

    teacher: str = Field(description="Who judges: a name under `teachers`")
    rubric: str | dict[str, str] = Field(
        _RUBRIC,
        description="What is scored: a text, or a text for each of several named criteria",
    )
    compare: bool = Field(
        False,
        description="Compare with the reference solution instead, asked in both orders: 1 is "
        "better than it, 0.5 as good, 0 worse",
    )
    solution: str = Field(
        "solution",
        description="With compare: the metadata that holds the reference solution; the reference "
        "answer where there is none",
    )
    template: str | None = Field(
        None,
        validate_default=True,
        description="Another prompt with the same variables; judge/rubric.en or judge/compare.en",
    )
    scale: int = Field(10, ge=2, le=100, description="The best score; the worst is 1")
    score_min: float | None = Field(None, description="Lowest score that is kept")
    score_max: float | None = Field(None, description="Highest score that is kept")
    overall: Literal["mean", "lowest"] = Field(
        "mean", description="The score of a trace, where there are several criteria"
    )
    reference: bool = Field(False, description="Also show the judge the reference answer")
    structured: Structured = Field(
        "json_schema",
        description="What the endpoint is sent as response_format; not every endpoint has it",
    )
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=1024)

    @field_validator("rubric")
    @classmethod
    def _named(cls, rubric: str | dict[str, str]) -> str | dict[str, str]:
        if not rubric:
            raise ValueError("the rubric is empty")
        for name in rubric if isinstance(rubric, dict) else ():
            if not name.isidentifier() or name == "reason":
                raise ValueError(f"{name!r} cannot be a key: a criterion's name is one word")
        return rubric

    @field_validator("template")
    @classmethod
    def _known(cls, template: str | None, info: Any) -> str:
        if template is None:
            return "judge/compare.en" if info.data.get("compare") else "judge/rubric.en"
        try:
            load_prompt(template)
        except UserError as error:
            raise ValueError(str(error)) from error
        return template

    @model_validator(mode="after")
    def _within(self) -> Config:
        low, high = (0, 1) if self.compare else (1, self.scale)
        for bound in (self.score_min, self.score_max):
            if bound is not None and not low <= bound <= high:
                raise ValueError(
                    f"a bound is not between {low} and {high}: it keeps all or nothing"
                )
        return self


def build(config: Config, context: Context) -> Check:
    """The check. It measures the judge's score; the evidence has its scores and its reason.

    The texts that are judged stand between marks made from a hash of them, so no trace can forge
    the end of itself. A malformed reply is asked for once more, as the next sample.

    With `compare` the trace and the reference solution are shown in both orders, for judges favour
    a place (Zheng et al. 2023, arXiv:2306.05685, section 3.4). The score is the mean of both; where
    each order finds another one better, it was the place that decided, and nobody can tell.
    """
    return _Judge(config, context.ask)


class _Judge:
    def __init__(self, config: Config, ask: Ask) -> None:
        self._config, self._ask = config, ask
        assert config.template is not None  # the validator has put one in
        self._prompt = load_prompt(config.template)
        rubric = config.rubric if isinstance(config.rubric, dict) else {"score": config.rubric}
        self._rubric = [{"name": name, "text": text} for name, text in rubric.items()]
        self._names = list(rubric)
        self._criteria = " ".join(rubric.values())
        score = {"type": "integer", "minimum": 1, "maximum": config.scale}
        better = {"type": "string", "enum": list(_POINTS)}
        keys = {"better": better} if config.compare else dict.fromkeys(rubric, score)
        self._format = response_format(config.structured, keys)

    def __call__(self, record: Record) -> Decision | Figures:
        return self._compare(record) if self._config.compare else self._score(record)

    def close(self) -> None:
        close_check(self._ask)

    def _score(self, record: Record) -> Decision | Figures:
        config, task = self._config, record.task
        texts = {
            "question": task.question,
            "reference": task.answer if config.reference else None,
            "reasoning": record.reasoning,
            "answer": record.answer,
        }
        messages = self._prompt.render(
            {**texts, "rubric": self._rubric, "scale": config.scale, "mark": digest(texts)[:16]}
        )
        parse = functools.partial(parse_judgement, names=self._names, scale=config.scale)
        judgement = self._ask_judge(messages, parse)
        if isinstance(judgement, Decision):
            return judgement
        scores, reason = judgement
        score = float(statistics.fmean(scores) if config.overall == "mean" else min(scores))
        by_name = dict(zip(self._names, scores, strict=True))
        return Figures({"score": score}, {"reason": shown(reason, _CLIP), "scores": by_name})

    def _compare(self, record: Record) -> Decision | Figures:
        config, task = self._config, record.task
        solution = str(task.metadata.get(config.solution) or task.answer or "")
        if not solution.strip():
            return cannot_tell("no reference solution")
        trace = join_trace(record.reasoning, record.answer)
        points, reasons = [], []
        for first, second in ((trace, solution), (solution, trace)):
            texts = {"question": task.question, "first": first, "second": second}
            messages = self._prompt.render(
                {**texts, "criteria": self._criteria, "mark": digest(texts)[:16]}
            )
            comparison = self._ask_judge(messages, parse_comparison)
            if isinstance(comparison, Decision):
                return comparison
            better, reason = comparison
            points.append(_POINTS[better] if first is trace else 1 - _POINTS[better])
            reasons.append(shown(reason, _CLIP))
        evidence = {"shown first": points[0], "shown second": points[1], "reasons": reasons}
        if abs(points[0] - points[1]) == 1:
            return cannot_tell("the judge favours a place", evidence)
        return Figures({"score": sum(points) / 2}, evidence)

    def _ask_judge(self, messages: list[Message], parse: Callable[[str], T]) -> T | Decision:
        """The judge's reply, parsed; or that nobody can tell, and why."""
        config, trouble = self._config, ""
        for sample in range(_SAMPLES):
            sampling = config.sampling.parameters(sample) | self._format
            try:
                return parse(self._ask(config.teacher, messages, sampling, sample))
            except ValueError as error:
                trouble = f"the judgement is malformed: {error}"
            except RuntimeError as error:
                trouble = f"the judge does not answer: {error}"
                break
        return cannot_tell(shown(trouble, _CLIP))


def response_format(structured: Structured, keys: dict[str, Any]) -> dict[str, Any]:
    """The sampling parameter (of OpenAI) that holds an endpoint to a reply with these keys."""
    if structured == "none":
        return {}
    if structured == "json_object":
        return {"response_format": {"type": "json_object"}}
    schema = {
        "type": "object",
        "properties": {"reason": {"type": "string"}, **keys},
        "required": ["reason", *keys],
        "additionalProperties": False,
    }
    form = {"name": "judgement", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": form}}


def parse_judgement(reply: str, names: Sequence[str], scale: int) -> tuple[list[int], str]:
    """The scores of these names in a reply and the reason; ValueError says what is wrong with it.

    >>> parse_judgement('Well: {"reason": "sound", "score": 4}', ["score"], 5)
    ([4], 'sound')
    """
    judgement = _find_object(reply, names)
    for name in names:
        value = judgement[name]
        if type(value) not in (int, float) or value != value // 1 or not 1 <= value <= scale:
            raise ValueError(f"{name} is no whole number from 1 to {scale}")
    return [int(judgement[name]) for name in names], judgement["reason"].strip()


def parse_comparison(reply: str) -> tuple[str, str]:
    """Which one a reply calls better (`first`, `second`, `tie`), and why; ValueError as above.

    >>> parse_comparison('{"reason": "shorter", "better": "second"}')
    ('second', 'shorter')
    """
    comparison = _find_object(reply, ["better"])
    if not isinstance(comparison["better"], str) or comparison["better"] not in _POINTS:
        raise ValueError("better is none of first, second, tie")
    return comparison["better"], comparison["reason"].strip()


def _find_object(reply: str, names: Sequence[str]) -> dict[str, Any]:
    """The one JSON object in a reply that has all the keys, and a text for a reason.

    Other words and a code fence around it do not matter. Two objects that say different things are
    no judgement: one of them may be quoted from what was judged.
    """
    if len(reply) > _LONGEST:
        raise ValueError("it is too long")
    keys = ["reason", *names]
    judgements = [value for value in _objects(reply) if set(keys) <= set(value)]
    if not judgements:
        raise ValueError(f"no JSON object with the keys {', '.join(keys)}")
    first = judgements[0]
    if any(value != first for value in judgements):
        raise ValueError("several judgements that differ")
    if not isinstance(first["reason"], str):
        raise ValueError("the reason is no text")
    return first


def _objects(text: str) -> list[dict[str, Any]]:
    """Every JSON object in a text that stands in no other."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
    objects, start = [], text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
            objects.append(value)
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    return objects


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(value := dict(pairs)) < len(pairs):
        raise ValueError("a key stands there twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
