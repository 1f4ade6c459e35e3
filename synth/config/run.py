"""The run config: one file describes a whole run, from questions to a measured student.

Each section is one stage and may be left out; a stage without its section does not run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from synth.config.augment import Augment, Rewrite
from synth.config.base import Section
from synth.config.distillation import Label
from synth.config.evaluate import Evaluate
from synth.config.generate import Budget, Generate, PromptChoice
from synth.config.train import Student, Train
from synth.core.errors import nearest


class Tasks(Section):
    """Where questions come from, and which are kept back for the evaluation."""

    train: list[dict[str, Any]] = Field(
        default_factory=list, description="Task sources; not needed beside traces"
    )
    eval: list[dict[str, Any]] | None = Field(
        None, min_length=1, description="Task sources of their own for the evaluation"
    )
    holdout: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Or: how many (a number) or which share of the questions to keep back"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Tasks:
        if self.eval is not None and self.holdout is not None:
            raise ValueError("eval and holdout are two ways to the same end: give one")
        return self


class RunStudent(Student):
    """The model that is trained, and the prompt under which it is trained and asked."""

    prompt: PromptChoice


class ChainStep(Section):
    """A model that is trained before the student."""

    student: RunStudent
    train: Train


class Run(Section):
    """A whole run.

    `teachers` maps a name to `{kind: ..., ...}`; `tasks.train` lists `{source: ..., ...}`;
    `filters` lists names, or `name: {options}`. What each takes is in its own file's `Config`.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Folder of the run")
    description: str = Field("", description="What this run is for, in a sentence; in the report")
    seed: int = Field(0, description="Decides splits, shuffles and training order")
    runs: str = Field("runs", description="Folder that runs lie in")
    store: str | None = Field(
        None, description="The response store; responses.sqlite among the runs by default"
    )
    tasks: Tasks | None = None
    traces: list[dict[str, Any]] | None = Field(
        None, min_length=1, description="Or: traces that are there already, from trace sources"
    )
    teachers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    budget: Budget | None = None
    augment: list[Augment] | None = Field(
        None, min_length=1, description="New questions from old ones, before they are answered"
    )
    generate: Generate | None = None
    rewrite: list[Rewrite] | None = Field(
        None, min_length=1, description="New traces from those that passed the trace filters"
    )
    filters: list[str | dict[str, Any]] = Field(default_factory=list)
    label: Label | None = Field(
        None, description="Soft labels of train.teachers, stored before training"
    )
    chain: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], ChainStep] = Field(
        default_factory=dict,
        description="Models that are trained before the student, in this order (the teacher "
        "itself, an assistant); trained:NAME names one where a model is named",
    )
    student: RunStudent | None = None
    train: Train | None = None
    evaluate: Evaluate | None = None

    @property
    def folder(self) -> Path:
        """Returns `RUNS/NAME`, where everything of this run lies."""
        return Path(self.runs) / self.name

    @property
    def store_path(self) -> Path:
        """Returns the response store, shared by all runs unless the config says otherwise."""
        return Path(self.store) if self.store else Path(self.runs) / "responses.sqlite"

    @property
    def student_origin(self) -> str:
        """Returns the model that the student comes from, before its chain is trained."""
        assert self.student is not None
        model = self.student.model
        while (name := trained(model)) is not None:
            model = self.chain[name].student.model
        return model

    @model_validator(mode="after")
    def _whole(self) -> Run:
        for stage, needs in (
            ("train", "student"),
            ("evaluate", "student"),
            ("augment", "teachers"),
            ("generate", "teachers"),
            ("rewrite", "generate"),
            ("chain", "train"),
            ("label", "train"),
        ):
            if getattr(self, stage) and not getattr(self, needs):
                raise ValueError(f"{stage} needs the section {needs}")
        self._check_sources()
        self._check_training()
        kept_back = self.tasks is not None and (self.tasks.eval or self.tasks.holdout)
        if self.evaluate is not None and not kept_back:
            raise ValueError("evaluate needs questions: give tasks.eval or tasks.holdout")
        asked = (self.generate and self.generate.teachers) or []
        named = {f"generate.teachers.{index}": [name] for index, name in enumerate(asked)}
        for section in ("augment", "rewrite"):
            for index, entry in enumerate(getattr(self, section) or ()):
                named[f"{section}.{index}"] = entry.asked
        for place, names in named.items():
            for name in names:
                if name not in self.teachers:
                    hint = nearest(name, self.teachers)
                    raise ValueError(f"{place}: no teacher {name!r}{hint}")
        return self

    def _check_training(self) -> None:
        """Raises ValueError where labels serve nobody, or a model is trained after its use."""
        if self.label is not None and (self.train is None or self.train.method != "soft_labels"):
            raise ValueError("label stores what train.method: soft_labels learns; set that method")
        learns_text = self.train is not None and self.train.method != "on_policy"
        if learns_text and self.generate is None and self.traces is None:
            raise ValueError("train needs traces: give generate, or traces")
        before: list[str] = []
        steps = [(f"chain.{name}.", step.student, step.train) for name, step in self.chain.items()]
        if self.student is not None and self.train is not None:
            steps.append(("", self.student, self.train))
        for place, student, train in steps:
            models = {"student.model": student.model}
            models |= {f"train.teachers.{n}.model": t.model for n, t in train.teachers.items()}
            for key, model in models.items():
                if (name := trained(model)) is not None and name not in before:
                    hint = nearest(name, before)
                    raise ValueError(
                        f"{place}{key}: nothing called {name!r} is trained before{hint}"
                    )
            before.append(place.removeprefix("chain.").removesuffix("."))

    def _check_sources(self) -> None:
        """Raises ValueError unless questions or traces come from somewhere, and in one way."""
        if self.traces is None:
            if self.tasks is None or not self.tasks.train:
                raise ValueError("give questions (tasks.train), or traces")
            return
        for name in ("generate", "augment"):
            if getattr(self, name) is not None:
                raise ValueError(f"traces and {name} are two ways to the same end: give one")
        if self.tasks is not None and (self.tasks.train or self.tasks.eval is None):
            raise ValueError("beside traces, tasks has eval alone: what the traces must not touch")


def trained(model: str) -> str | None:
    """Returns the name in `trained:NAME`, or None for any other model."""
    return model.removeprefix("trained:") if model.startswith("trained:") else None


def stages_of(run: Run) -> list[str]:
    """Lists the stages that a config asks for, in their order."""
    in_config = {
        "tasks": run.tasks is not None,
        "import": run.traces is not None,
        "augment": run.augment is not None,
        "generate": run.generate is not None,
        "rewrite": run.rewrite is not None,
        "filter": run.generate is not None or run.traces is not None,
        **{f"train-{name}": True for name in run.chain},
        "label": run.label is not None,
        "train": run.train is not None,
        "evaluate": run.evaluate is not None,
    }
    return [name for name, wanted in in_config.items() if wanted]


def questions_of(run: Run) -> str:
    """Names the stage whose questions are answered."""
    return "augment" if run.augment else "tasks"


def traces_of(run: Run) -> str:
    """Names the stage whose traces are filtered."""
    if run.traces is not None:
        return "import"
    return "rewrite" if run.rewrite else "generate"
