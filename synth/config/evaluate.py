"""The config section `evaluate`: who is asked, how, and what else is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from synth.config.base import Section
from synth.config.generate import Sampling
from synth.core import plugins
from synth.core.errors import UserError, lacks_package, nearest

# Options of an engine that are the student's own.
_STUDENTS = {"model", "chat_template"}


class Evaluate(Section):
    """Measuring the student before and after training, and the teacher, on the same questions."""

    sampling: Sampling = Sampling(temperature=0.0)
    samples: int = Field(1, ge=1, description="Answers a question")
    k: list[Annotated[int, Field(ge=1)]] | None = Field(
        None, description="The k of pass@k and majority@k; powers of two up to samples by default"
    )
    majority: bool = Field(True, description="Also the accuracy of the majority answer")
    limit: int | None = Field(None, ge=1, description="Ask only the first so many questions")
    verifier: str | dict[str, Any] = Field(
        "math_answer", description="The filter that says whether an answer is right"
    )
    teacher: bool = Field(True, description="Also ask the teachers, under their own prompt")
    chain: bool = Field(False, description="Also ask every model that the section chain trains")
    batch_size: int = Field(32, ge=1, description="Student answers made at a time")
    engine: dict[str, Any] | None = Field(
        None,
        description="What runs the students: a kind of teacher that loads a folder, as under "
        "teachers but without model, such as {kind: vllm}; {kind: transformers} by default",
    )
    lm_eval: list[str] | None = Field(
        None, min_length=1, description="Benchmarks of the library lm-eval, for each student"
    )
    lm_eval_limit: int | None = Field(
        None, ge=1, description="Only the first so many questions of each benchmark"
    )
    lm_eval_path: str | None = Field(
        None, description="Folder with benchmarks of your own, as lm-eval's YAML files"
    )

    @model_validator(mode="after")
    def _enough(self) -> Evaluate:
        if too_many := [k for k in self.k or () if k > self.samples]:
            raise ValueError(f"k: {too_many[0]} is more than samples ({self.samples})")
        for name in ("lm_eval_limit", "lm_eval_path"):
            if getattr(self, name) is not None and self.lm_eval is None:
                raise ValueError(f"{name}: lm_eval names no benchmark")
        return self

    @field_validator("engine")
    @classmethod
    def _loads_folders(cls, engine: dict[str, Any] | None) -> dict[str, Any] | None:
        if engine is not None:
            check_engine(engine)
        return engine

    def engine_for(self, model: str, **defaults: Any) -> tuple[str, BaseModel]:
        """Returns the kind of teacher that runs the student at `model`, and its options.

        The `defaults` are options where the config sets none; those that the kind lacks are left
        out.
        """
        entry = {"kind": "transformers", **(self.engine or {})}
        kind = entry.pop("kind")
        config_class = plugins.load("teacher", kind).Config
        known = {key: value for key, value in defaults.items() if key in config_class.model_fields}
        options: BaseModel = config_class(**{**known, **entry, "model": model})
        return kind, options

    def lacks(self) -> list[str]:
        """Says what this machine lacks for the evaluation beyond the student and the teachers."""
        lacks: list[str] = []
        if self.engine is not None:
            kind, options = self.engine_for("student")
            check = getattr(plugins.load("teacher", kind), "check", None)
            lacks += [f"evaluate.engine: {line}" for line in (check(options) if check else ())]
        if self.lm_eval:
            lacks += lacks_package("lm-eval", "evaluate.lm_eval", "eval")
        if self.lm_eval_path is not None and not Path(self.lm_eval_path).is_dir():
            lacks.append(f"evaluate.lm_eval_path: no folder {self.lm_eval_path}")
        return lacks


def check_engine(engine: dict[str, Any]) -> None:
    """Raises ValueError unless it is a kind of teacher that can load a student's folder."""
    kind = engine.get("kind")
    if not isinstance(kind, str):
        raise ValueError("an engine is written {kind: NAME, ...}")
    try:
        options = plugins.load("teacher", kind).Config
    except UserError as error:
        raise ValueError(str(error)) from error
    known = set(options.model_fields)
    # An API has no chat template to be given: what runs weights itself has one.
    if not known >= _STUDENTS:
        raise ValueError(
            f"the teacher kind {kind!r} cannot load the student; expected transformers, vllm or "
            "vllm_server"
        )
    for key in engine.keys() - {"kind"}:
        if key in _STUDENTS:
            raise ValueError(f"{key}: the student's own is taken; leave it out")
        if key not in known:
            raise ValueError(f"unknown key {key!r}{nearest(str(key), known - _STUDENTS)}")
    try:
        options(**{k: v for k, v in engine.items() if k != "kind"}, model="student")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"{step}: " for step in first["loc"][:1])
        raise ValueError(f"{place}{first['msg']}") from error
