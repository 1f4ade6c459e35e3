"""Scores traces by a rubric, or compares them with a reference solution: a teacher judges.

Its reply is held to a JSON form.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import Field, field_validator, model_validator

from filters.base import Ask, Check, Context, Decision, Figures, FilterConfig, Measures, cannot_tell
from synth.config.generate import Sampling
from synth.core.display import shown
from synth.core.errors import UserError
from synth.core.prompts import load_prompt
from synth.core.reasoning import join_trace
from synth.core.record import Message, Record, digest

# A judgement is a few sentences; a longer reply is not read.
_LONGEST = 20_000
_CLIP = 200
# The reply is asked for so often before it counts as not to be had.
_SAMPLES = 2
_ONE = "score"
_RUBRIC = "Is the reasoning sound, complete and to the point, and does the answer follow from it?"

Structured = Literal["json_schema", "json_object", "none"]
Read = TypeVar("Read")


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


class Judgement(NamedTuple):
    """What a judge said: its scores in the order of the criteria, and why."""

    scores: list[int]
    reason: str


def build(config: Config, context: Context) -> Check:
    """The check. It measures the judge's score; the evidence has its scores and its reason.

    The texts that are judged stand between marks made from a hash of them, so no trace can forge
    the end of itself; the reply counts only as a JSON object of the wanted form, alone or among
    other words. Any other reply is asked for once more, as the next sample, and then nobody can
    tell. The same holds where the endpoint gives no answer.

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
        rubric = config.rubric if isinstance(config.rubric, dict) else {_ONE: config.rubric}
        self._rubric = [{"name": name, "text": text} for name, text in rubric.items()]
        self._names = list(rubric)
        self._criteria = " ".join(rubric.values())
        if config.compare:
            better = {"type": "string", "enum": list(_POINTS)}
            self._format = _response_format(config.structured, {"better": better})
        else:
            self._format = response_format(config.structured, self._names, config.scale)

    def __call__(self, record: Record) -> Decision | Figures:
        """The score of one record, or that nobody can tell; waits for the judge."""
        return self._compare(record) if self._config.compare else self._score(record)

    def close(self) -> None:
        """Gives back what asks, where there is something to give back."""
        if close := getattr(self._ask, "close", None):
            close()

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
        judged = self._asked(
            messages, lambda said: parse_judgement(said, self._names, config.scale)
        )
        if isinstance(judged, Decision):
            return judged
        mean = config.overall == "mean"
        score = float(statistics.fmean(judged.scores) if mean else min(judged.scores))
        scores = dict(zip(self._names, judged.scores, strict=True))
        return Figures({"score": score}, {"reason": shown(judged.reason, _CLIP), "scores": scores})

    def _compare(self, record: Record) -> Decision | Figures:
        config, task = self._config, record.task
        solution = str(task.metadata.get(config.solution) or task.answer or "")
        if not solution.strip():
            return cannot_tell("no reference solution")
        ours = join_trace(record.reasoning, record.answer)
        points, reasons = [], []
        for pair in ((ours, solution), (solution, ours)):
            texts = {"question": task.question, "first": pair[0], "second": pair[1]}
            messages = self._prompt.render(
                {**texts, "criteria": self._criteria, "mark": digest(texts)[:16]}
            )
            said = self._asked(messages, parse_comparison)
            if isinstance(said, Decision):
                return said
            better, reason = said
            points.append(_POINTS[better] if pair[0] is ours else 1 - _POINTS[better])
            reasons.append(shown(reason, _CLIP))
        evidence = {"shown first": points[0], "shown second": points[1], "reasons": reasons}
        if abs(points[0] - points[1]) == 1:
            return cannot_tell("the judge favours a place", evidence)
        return Figures({"score": sum(points) / 2}, evidence)

    def _asked(self, messages: list[Message], read: Callable[[str], Read]) -> Read | Decision:
        """What the judge says, as `read` gives it; or that nobody can tell, and why."""
        config, trouble = self._config, ""
        for sample in range(_SAMPLES):
            sampling = config.sampling.parameters(sample) | self._format
            try:
                return read(self._ask(config.teacher, messages, sampling, sample))
            except ValueError as error:
                trouble = f"the judgement is malformed: {error}"
            except RuntimeError as error:
                trouble = f"the judge does not answer: {error}"
                break
        return cannot_tell(shown(trouble, _CLIP))


# What a solution gets that is shown first.
_POINTS = {"first": 1.0, "tie": 0.5, "second": 0.0}


def response_format(structured: Structured, names: Sequence[str], scale: int) -> dict[str, Any]:
    """The sampling parameter that holds an endpoint to a judgement's form, in OpenAI's terms."""
    score = {"type": "integer", "minimum": 1, "maximum": scale}
    return _response_format(structured, dict.fromkeys(names, score))


def _response_format(structured: Structured, keys: dict[str, Any]) -> dict[str, Any]:
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


def parse_judgement(reply: str, names: Sequence[str], scale: int) -> Judgement:
    """The judgement in a reply: the one JSON object in it that has all the keys.

    Other words and a code fence around it do not matter. Two objects that say different things are
    no judgement: one of them may be quoted from what was judged.

    Raises:
        ValueError: With what is wrong with the reply.

    >>> parse_judgement('Well: {"reason": "sound", "score": 4}', ["score"], 5)
    Judgement(scores=[4], reason='sound')
    """
    said = _judgement(reply, names)
    return Judgement([_score(name, said[name], scale) for name in names], said["reason"].strip())


def parse_comparison(reply: str) -> tuple[str, str]:
    """Which one a reply calls better (`first`, `second`, `tie`), and why.

    Raises:
        ValueError: With what is wrong with the reply.

    >>> parse_comparison('{"reason": "shorter", "better": "second"}')
    ('second', 'shorter')
    """
    said = _judgement(reply, ["better"])
    if not isinstance(said["better"], str) or said["better"] not in _POINTS:
        raise ValueError("better is none of first, second, tie")
    return said["better"], said["reason"].strip()


def _judgement(reply: str, names: Sequence[str]) -> dict[str, Any]:
    """The one JSON object in a reply that has all the keys, and a text for a reason.

    Raises:
        ValueError: With what is wrong with the reply.
    """
    if len(reply) > _LONGEST:
        raise ValueError("it is too long")
    wanted = {"reason", *names}
    found = [value for value in _objects(reply) if wanted <= set(value)]
    if not found:
        raise ValueError(f"no JSON object with the keys {', '.join(['reason', *names])}")
    first = found[0]
    if any(value != first for value in found):
        raise ValueError("several judgements that differ")
    if not isinstance(first["reason"], str):
        raise ValueError("the reason is no text")
    return first


def _score(name: str, value: Any, scale: int) -> int:
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not whole or not 1 <= value <= scale:
        raise ValueError(f"{name} is no whole number from 1 to {scale}")
    return int(value)


def _objects(text: str) -> list[dict[str, Any]]:
    """Every JSON object in a text that stands in no other."""
    decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)
    found, place = [], text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
            found.append(value)
        except (ValueError, RecursionError):
            end = place + 1
        place = text.find("{", end)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(value := dict(pairs)) < len(pairs):
        raise ValueError("a key stands there twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
