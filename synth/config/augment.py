"""The config sections `augment` and `rewrite`: new questions from old ones, new traces likewise."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from synth.config.base import Section
from synth.config.generate import PromptChoice, Sampling
from synth.core.errors import UserError, nearest
from synth.core.prompts import Prompt, load_prompt

# What a template of `augment` may be handed, besides the metadata of the question.
FROM_A_QUESTION = {"question", "solution", "answer", "masked", "unknown"}
FROM_NOTHING = {"seeds", "persona", "topic"}
# The forms whose new question has the old one's answer.
KEEPS_ANSWER = {"rephrase", "translate", "back_translate"}
# The forms whose template is the new question itself: nobody is asked.
ASKS_NOBODY = {"fobar"}


class Agreement(Section):
    """The reference answer of a new question by a vote: several answers, and most of them agree."""

    samples: int = Field(5, ge=1, description="Answers a question")
    agree: int = Field(3, ge=1, description="Fewest equal ones that make a reference answer")
    prompt: PromptChoice = PromptChoice(template="boxed.en")
    teacher: str | None = Field(None, description="Who answers; the entry's teacher by default")
    sampling: Sampling = Sampling(temperature=0.7)

    @model_validator(mode="after")
    def _reachable(self) -> Agreement:
        if self.agree > self.samples:
            raise ValueError(f"agree is more than samples ({self.samples}): it is never reached")
        _check_values(load_prompt_or_fail(self.prompt.template), self.prompt.values)
        return self


class _Make(Section):
    """What `augment` and `rewrite` have in common: who is asked for what."""

    folder: ClassVar[str]  # of the library, where its templates lie
    make: str = Field(description="A prompt of the library, or a path to your own .jinja")
    teacher: str | None = Field(None, description="Who is asked; the first teacher by default")
    sampling: Sampling = Sampling(temperature=0.7)
    values: dict[str, Any] = Field(
        default_factory=dict, description="Values of the template's own variables"
    )

    @property
    def name(self) -> str:
        """Returns the form's bare name: no folder, no language."""
        return self.make.rpartition("/")[2].partition(".")[0]

    @property
    def asked(self) -> list[str]:
        """Lists the teachers that the entry names."""
        return [self.teacher] if self.teacher else []

    @property
    def prompt(self) -> Prompt:
        """Loads the template. Raises UserError where there is none."""
        return load_prompt(template_name(self.folder, self.make))

    @field_validator("make", "critique", check_fields=False)
    @classmethod
    def _is_prompt(cls, make: str) -> str:
        load_prompt_or_fail(template_name(cls.folder, make))
        return make


class Augment(_Make):
    """One way to make new questions.

    What the template uses says where it starts from: `question`, `masked` and the like from one
    old question at a time; `seeds`, `persona` and `topic` from none of them in particular.
    """

    folder = "augment"
    each: int = Field(
        1, ge=1, le=100, description="New questions an old one, or a request that starts from none"
    )
    draws: int | None = Field(
        None,
        ge=1,
        description="Only so many old questions, drawn at random; for a form that starts from "
        "none: requests (by default one a combination of persona and topic)",
    )
    shots: int = Field(4, ge=1, description="Old questions that a template with `seeds` shows")
    personas: list[str] = Field(default_factory=list, description="For a template with `persona`")
    topics: list[str] = Field(default_factory=list, description="For a template with `topic`")
    rounds: int = Field(
        1, ge=1, le=10, description="Rounds after the first start from what the last one made"
    )
    answer: Agreement | Literal["keep", "none"] | None = Field(
        None,
        description="Reference answer of a new question: the old one's (keep), none, or by a vote; "
        "by default what the form says",
    )
    near: float | None = Field(
        0.8,
        gt=0,
        le=1,
        description="Jaccard of word runs from which a new question is an old one again; null, and "
        "for a masked number the default, compares the whole alone",
    )

    @property
    def from_question(self) -> bool:
        """Tells whether each request starts from one old question."""
        return bool(FROM_A_QUESTION & set(self.prompt.variables))

    @property
    def masks(self) -> bool:
        """Tells whether a number of the question is masked: the new answer is that number."""
        return "masked" in self.prompt.variables

    @property
    def asks(self) -> bool:
        """Tells whether a teacher makes the question; else the rendered template is it."""
        return self.name not in ASKS_NOBODY

    @property
    def nearness(self) -> float | None:
        """Returns `near`; a question with a masked number is near the old one by its nature."""
        return None if self.masks and "near" not in self.model_fields_set else self.near

    @property
    def reference(self) -> Literal["keep", "none", "masked"] | Agreement:
        """Says where the reference answer comes from."""
        if self.answer is not None:
            return self.answer
        return "masked" if self.masks else "keep" if self.name in KEEPS_ANSWER else "none"

    @property
    def asked(self) -> list[str]:
        """Lists the teachers that the entry names."""
        voter = self.answer.teacher if isinstance(self.answer, Agreement) else None
        return [name for name in (self.teacher, voter) if name]

    @field_validator("answer", mode="before")
    @classmethod
    def _word(cls, answer: Any) -> Any:
        if isinstance(answer, str) and answer not in ("keep", "none"):
            raise ValueError("it is keep, none, or {samples: 5, agree: 3} for a vote")
        return answer

    @model_validator(mode="after")
    def _fits(self) -> Augment:
        prompt = self.prompt
        _check_values(prompt, self.values)
        for variable, texts in (("persona", self.personas), ("topic", self.topics)):
            if variable in prompt.variables and not texts:
                raise ValueError(f"{self.make} needs {variable}s: a list of texts")
            if texts and variable not in prompt.variables:
                raise ValueError(f"{self.make} has no variable {variable!r}: leave out {variable}s")
        if self.from_question:
            return self
        if not FROM_NOTHING & set(prompt.variables):
            raise ValueError(
                f"{self.make} starts from nothing: its template uses none of "
                f"{sorted(FROM_A_QUESTION | FROM_NOTHING)}"
            )
        if "seeds" in prompt.variables and self.draws is None:
            raise ValueError(f"{self.make} shows drawn questions: say how many times with draws")
        combinations = max(1, len(self.personas)) * max(1, len(self.topics))
        if "seeds" not in prompt.variables and (self.draws or 0) > combinations:
            raise ValueError(f"draws: there are only {combinations} combinations to draw")
        if self.answer == "keep" or self.rounds > 1:
            raise ValueError(f"{self.make} starts from no question: no answer to keep, one round")
        return self


class Rewrite(_Make):
    """One way to make new traces of those that passed the trace filters."""

    folder = "rewrite"
    each: int = Field(1, ge=1, le=100, description="New traces an old one")
    critique: str = Field(
        "critique.en",
        description="The template that is asked first, where that of `make` uses `critique`",
    )

    @property
    def first(self) -> Prompt | None:
        """Loads the template of the step before, where there are two."""
        if "critique" not in self.prompt.variables:
            return None
        return load_prompt(template_name("rewrite", self.critique))

    @model_validator(mode="after")
    def _fits(self) -> Rewrite:
        known = set(self.prompt.variables) | set(self.first.variables if self.first else ())
        _check_values(self.prompt, self.values, known)
        return self


def template_name(folder: str, make: str) -> str:
    """Names the prompt of a form: `rephrase` is `augment/rephrase.en`, a path is itself."""
    if make.endswith(".jinja"):
        return make
    name = make.removeprefix(f"{folder}/")
    return f"{folder}/{name}" if "." in name else f"{folder}/{name}.en"


def load_prompt_or_fail(name: str) -> Prompt:
    """Loads a prompt; a mistake is the ValueError that pydantic reports at its place."""
    try:
        return load_prompt(name)
    except UserError as error:
        raise ValueError(str(error)) from error


def _check_values(prompt: Prompt, values: dict[str, Any], known: set[str] | None = None) -> None:
    known = set(prompt.variables) if known is None else known
    for key in values:
        if key not in known:
            raise ValueError(f"{prompt.name} has no variable {key!r}{nearest(key, known)}")
