"""Scores traces by a rubric: a teacher judges, and its reply is held to a JSON form."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from filters.contract import Ask, Check, Context, Decision
from synth.errors import UserError
from synth.generate_config import Sampling
from synth.plugins import PluginConfig
from synth.prompts import load_prompt
from synth.record import Record, digest

ASKS_TEACHER = True

# A judgement is a few sentences; a longer reply is not read.
_LONGEST = 20_000
_CLIP = 200
# The reply is asked for so often before it counts as not to be had.
_SAMPLES = 2
_ONE = "score"


class Config(PluginConfig):
    """Options of `judge`."""

    teacher: str = Field(description="Who judges: a name under `teachers`")
    rubric: str | dict[str, str] = Field(
        "Is the reasoning sound, complete and to the point, and does the answer follow from it?",
        description="What is scored: a text, or a text for each of several named criteria",
    )
    template: str = Field("judge/rubric.en", description="Another prompt with the same variables")
    scale: int = Field(10, ge=2, le=100, description="The best score; the worst is 1")
    min: float = Field(description="Lowest score that is kept")
    overall: Literal["mean", "lowest"] = Field(
        "mean", description="The score of a trace, where there are several criteria"
    )
    reference: bool = Field(False, description="Also show the judge the reference answer")
    structured: Literal["json_schema", "json_object", "none"] = Field(
        "json_schema",
        description="What the endpoint is sent as response_format; not every endpoint has it",
    )
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=1024)
    unsure: Literal["drop", "keep"] = Field(
        "drop", description="What becomes of a trace on which no judgement can be had"
    )

    @field_validator("template")
    @classmethod
    def _known(cls, template: str) -> str:
        try:
            load_prompt(template)
        except UserError as error:
            raise ValueError(str(error)) from error
        return template

    @field_validator("rubric")
    @classmethod
    def _named(cls, rubric: str | dict[str, str]) -> str | dict[str, str]:
        if not rubric:
            raise ValueError("the rubric is empty")
        for name in rubric if isinstance(rubric, dict) else ():
            if not name.isidentifier() or name == "reason":
                raise ValueError(f"{name!r} cannot be a key: a criterion's name is one word")
        return rubric

    @model_validator(mode="after")
    def _within(self) -> Config:
        if not 1 <= self.min <= self.scale:
            raise ValueError(f"min is not between 1 and {self.scale}: it keeps all or nothing")
        return self


class Judgement(NamedTuple):
    """What a judge said: its scores in the order of the criteria, and why."""

    scores: list[int]
    reason: str


def build(config: Config, context: Context) -> Check:
    """The check. Its score is the judge's, its reason the judge's reason, clipped.

    The texts that are judged stand between marks made from a hash of them, so no trace can forge
    the end of itself; the reply counts only as a JSON object of the wanted form, alone or among
    other words. Any other reply is asked for once more, as the next sample, and then nobody can
    tell. The same holds where the endpoint gives no answer.
    """
    return _Judge(config, context.ask)


class _Judge:
    def __init__(self, config: Config, ask: Ask) -> None:
        self._config, self._ask = config, ask
        self._prompt = load_prompt(config.template)
        rubric = config.rubric if isinstance(config.rubric, dict) else {_ONE: config.rubric}
        self._rubric = [{"name": name, "text": text} for name, text in rubric.items()]
        self._names = list(rubric)
        self._format = response_format(config.structured, self._names, config.scale)

    def __call__(self, record: Record) -> Decision:
        """The verdict on one record; waits for the judge."""
        config, task = self._config, record.task
        reference = task.answer if config.reference else None
        texts = {
            "question": task.question,
            "reference": reference,
            "reasoning": record.reasoning,
            "answer": record.answer,
        }
        messages = self._prompt.render(
            {
                **texts,
                "rubric": self._rubric,
                "scale": config.scale,
                "mark": digest(texts)[:16],
            }
        )
        trouble = ""
        for sample in range(_SAMPLES):
            sampling = config.sampling.parameters(sample) | self._format
            try:
                reply = self._ask(config.teacher, messages, sampling, sample)
                judged = parse_judgement(reply, self._names, config.scale)
            except ValueError as error:
                trouble = f"the judgement is malformed: {error}"
                continue
            except RuntimeError as error:
                trouble = f"the judge does not answer: {error}"
                break
            return self._decide(judged)
        return Decision(config.unsure == "keep", f"cannot tell: {_clip(trouble)}")

    def close(self) -> None:
        """Gives back what asks, where there is something to give back."""
        if close := getattr(self._ask, "close", None):
            close()

    def _decide(self, judged: Judgement) -> Decision:
        mean = self._config.overall == "mean"
        score = float(statistics.fmean(judged.scores) if mean else min(judged.scores))
        if score >= self._config.min:
            return Decision(True, _clip(judged.reason), score)
        return Decision(False, f"low score: {_clip(judged.reason)}", score)


def response_format(
    structured: Literal["json_schema", "json_object", "none"], names: Sequence[str], scale: int
) -> dict[str, Any]:
    """The sampling parameter that holds an endpoint to a judgement's form, in OpenAI's terms."""
    if structured == "none":
        return {}
    if structured == "json_object":
        return {"response_format": {"type": "json_object"}}
    score = {"type": "integer", "minimum": 1, "maximum": scale}
    schema = {
        "type": "object",
        "properties": {"reason": {"type": "string"}, **dict.fromkeys(names, score)},
        "required": ["reason", *names],
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
    return Judgement([_score(name, first[name], scale) for name in names], first["reason"].strip())


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


def _clip(text: str) -> str:
    """A text on one short line."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _CLIP]).split())
    return text if len(text) <= _CLIP else text[: _CLIP - 1] + "…"
