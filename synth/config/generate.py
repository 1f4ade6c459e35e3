"""The config sections `generate` and `budget`: asking the teachers, and what it may cost."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from synth.config.base import Section

Alarm = Literal["stop", "warn", "off"]


class PromptChoice(Section):
    """A prompt template and the values that the config gives it."""

    template: str = Field(description="A name from `distill list prompts`, or a path to a .jinja")
    values: dict[str, Any] = Field(
        default_factory=dict, description="Values of its variables, such as worked examples"
    )


# What `sampling.extra` cannot hold, and what does it instead.
_MORE_ANSWERS = (
    "one request gives one answer, and others in it would be paid for and lost. For more answers "
    "to a question set samples (generate.samples.max, evaluate.samples)"
)
_MESSAGES = "the messages are made from the question by the prompt"
_ON_TEACHER = "it is no part of a request; set {} on the teacher"
_NOT_EXTRA = {
    "n": _MORE_ANSWERS,
    "best_of": _MORE_ANSWERS,
    "stream": "to read answers as streams, set stream: true on the teacher",
    "stream_options": "set stream: true on the teacher; it asks for the usage itself",
    **dict.fromkeys(("messages", "prompt", "input", "contents"), _MESSAGES),
    "model": "set model on the teacher; the store's keys know that one",
    "top_logprobs": "set sampling.top_logprobs, which also keeps them",
    "extra_body": "it is the SDK's; write its keys under extra themselves",
    "extra_headers": _ON_TEACHER.format("headers"),
    "headers": _ON_TEACHER.format("headers"),
    "extra_query": _ON_TEACHER.format("query"),
    "timeout": _ON_TEACHER.format("timeout_s"),
    "base_url": _ON_TEACHER.format("base_url"),
    **dict.fromkeys(
        ("api_key", "authorization", "Authorization"),
        "what is sent is kept in the store. A key is read from the environment: set api_key_env "
        "on the teacher",
    ),
}


class Sampling(Section):
    """How an answer is sampled; what is not set is left to the endpoint. OpenAI's names."""

    temperature: float | None = Field(None, ge=0, le=5, description="0 takes the likeliest token")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus sampling")
    top_k: int | None = Field(None, ge=1, description="Only where the endpoint knows it")
    max_tokens: int = Field(4096, ge=1, description="Longest answer, reasoning included")
    stop: list[str] | None = Field(None, description="Texts that end the answer")
    seed: int | None = Field(None, description="Sent to the endpoint; sample i gets seed + i")
    top_logprobs: int | None = Field(
        None, ge=1, le=1000, description="Soft labels: keep so many likeliest tokens a position"
    )
    extra: dict[str, Any] = Field(
        default_factory=dict, description="Further parameters, sent as they are"
    )

    @field_validator("extra")
    @classmethod
    def _can_be_sent(cls, extra: dict[str, Any]) -> dict[str, Any]:
        for name, value in extra.items():
            if name in _NOT_EXTRA and not (name in ("n", "best_of") and value == 1):
                # A kind whose value, which may be a key, is not printed.
                raise PydanticCustomError(
                    "secret", f"{name} cannot be set here: {_NOT_EXTRA[name]}"
                )
        return extra

    def parameters(self, sample: int) -> dict[str, Any]:
        """What is sent for a sample: only what is set, under the endpoint's names."""
        sent = self.model_dump(exclude_none=True, exclude={"extra", "seed"}) | self.extra
        if self.top_logprobs is not None:
            sent["logprobs"] = True
        return sent if self.seed is None else {**sent, "seed": self.seed + sample}


class Samples(Section):
    """How many answers a question gets.

    With `until_verified` answers are asked for as they are needed. With `give_up` the first
    `learn` questions of each source show how pass rates go with length, signs and metadata (a
    level, a subject), and how much hope is left in a question after so many failures; every
    question then stops where it is too little. So a high `max` is spent on the
    questions that answer to it.
    """

    max: int = Field(1, ge=1, description="At most this many")
    until_verified: int | None = Field(
        None, ge=1, description="Stop earlier, when this many passed every trace filter"
    )
    start: int | None = Field(
        None, ge=1, description="How many to begin with; until_verified by default"
    )
    give_up: float | None = Field(
        None, gt=0, lt=1, description="Stop where the next answer passes with less chance than this"
    )
    learn: int = Field(
        64,
        ge=8,
        description="Questions of a source that give_up learns from, by up to six answers each",
    )

    @model_validator(mode="after")
    def _reachable(self) -> Samples:
        for name in ("until_verified", "start"):
            if (getattr(self, name) or 0) > self.max:
                raise ValueError(f"{name} is more than max ({self.max}): it is never reached")
        if self.until_verified is None and (self.start or self.give_up):
            raise ValueError("start and give_up need until_verified; else all of max are asked")
        return self


class Truncation(Section):
    """What becomes of answers that were cut off at max_tokens."""

    policy: Literal["keep", "drop", "raise_max_tokens", "continue"] = Field(
        "keep",
        description="keep: the filters decide. drop: set aside. raise_max_tokens: ask again with "
        "more. continue: the teacher writes on from where it was cut (not every endpoint can)",
    )
    times: int = Field(2, ge=1, description="How often an answer is asked again or continued")
    factor: float = Field(2.0, gt=1, description="raise_max_tokens: by how much each time")
    alarm: float | None = Field(
        0.5,
        gt=0,
        le=1,
        description="The alarm goes where this share of the first answers is cut off",
    )
    alarm_after: int = Field(50, ge=10, description="How many the first answers are")


class Vote(Section):
    """A reference answer by agreement, for questions that have none."""

    agree: int = Field(3, ge=2, description="So many equal final answers become the reference")


class Budget(Section):
    """The most that a run may spend. It then stops with exit status 3; a higher cap goes on."""

    usd: float | None = Field(None, gt=0, description="Dollars, over all reruns of this run")
    tokens: int | None = Field(None, gt=0, description="Tokens, of prompts and answers together")
    hours: float | None = Field(None, gt=0, description="Hours of asking, anew at each start")


class Generate(Section):
    """Asking the teachers."""

    prompt: PromptChoice
    sampling: Sampling = Sampling()
    samples: Samples = Samples()
    teachers: list[str] | None = Field(
        None,
        min_length=1,
        description="Which of the teachers answer, in this order; all by default",
    )
    route: Literal["turns", "weights", "fallback", "cascade"] = Field(
        "turns",
        description="turns: sample by sample in turn. weights: by their weights. fallback: the "
        "first; another where it fails. cascade: the next only for what the one before it left "
        "unsolved",
    )
    truncation: Truncation = Truncation()
    alarm: Alarm | None = Field(
        None,
        description="What follows where money burns: the filters keep none of the first 50 "
        "answers, half of the questions or more have no reference that the verifier needs, or "
        "too many answers are cut off (truncation.alarm). null: stop",
    )
    vote: Vote | None = None
    concurrency: int = Field(64, ge=1, description="Most requests in flight to a teacher")
    retries: int = Field(6, ge=0, description="Further attempts after a failure that may pass")
    patience_s: float = Field(
        600.0, ge=0, description="Seconds without any answer after which a teacher is given up"
    )

    @property
    def alarm_action(self) -> Alarm:
        """What follows an alarm."""
        return self.alarm or "stop"

    def decisive(self) -> dict[str, Any]:
        """What answers depend on, as JSON values: not how fast they come, or when a run stops."""
        pace = {"concurrency", "retries", "teachers", "patience_s", "alarm"}
        return self.model_dump(
            mode="json",
            exclude={**dict.fromkeys(pace, True), "truncation": {"alarm", "alarm_after"}},
        )

    @field_validator("alarm", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "off" if value is False else value  # `off` is a boolean in older YAML

    @model_validator(mode="after")
    def _consistent(self) -> Generate:
        if self.route == "cascade" and self.samples.until_verified is None:
            raise ValueError("route: cascade needs samples.until_verified: it says when to go on")
        if self.vote is not None and self.vote.agree > self.samples.max:
            raise ValueError(f"vote.agree is more than samples.max ({self.samples.max})")
        return self
