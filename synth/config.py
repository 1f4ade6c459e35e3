"""The run config: one file describes a whole run, from questions to a measured student.

Each section is one stage and may be left out; a stage without its section does not run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from synth import plugins
from synth.augment_config import Augment, Rewrite
from synth.configfile import Path_, Source, problems_of, raise_if_any, read_config
from synth.distil_config import Label
from synth.errors import MissingPackage, Problem, UserError, nearest
from synth.evaluate_config import Evaluate
from synth.generate_config import Budget, Generate, PromptChoice, Section
from synth.prompts import load_prompt
from synth.training_config import Student, Train


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
        """`RUNS/NAME`, where everything of this run lies."""
        return Path(self.runs) / self.name

    @property
    def store_path(self) -> Path:
        """The response store, shared by all runs unless the config says otherwise."""
        return Path(self.store) if self.store else Path(self.runs) / "responses.sqlite"

    @property
    def student_origin(self) -> str:
        """The model that the student comes from, before its chain is trained; its tokenizer."""
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
        self._sources()
        self._learning()
        tasks = self.tasks
        if self.evaluate is not None and (
            tasks is None or (tasks.eval is None and tasks.holdout is None)
        ):
            raise ValueError("evaluate needs questions: give tasks.eval or tasks.holdout")
        if self.generate is not None and self.generate.teachers is not None:
            for name in self.generate.teachers:
                if name not in self.teachers:
                    raise ValueError(
                        f"generate.teachers: no teacher {name!r}{nearest(name, self.teachers)}"
                    )
        for section in ("augment", "rewrite"):
            for index, entry in enumerate(getattr(self, section) or ()):
                for name in entry.asked:
                    if name not in self.teachers:
                        raise ValueError(
                            f"{section}.{index}: no teacher {name!r}{nearest(name, self.teachers)}"
                        )
        return self

    def _learning(self) -> None:
        """Raises ValueError where labels serve nobody, or a model is trained after its use."""
        if self.label is not None and (self.train is None or self.train.method != "soft_labels"):
            raise ValueError("label stores what train.method: soft_labels learns; set that method")
        learns_text = self.train is not None and self.train.method != "on_policy"
        if learns_text and self.generate is None and self.traces is None:
            raise ValueError("train needs traces: give generate, or traces")
        known: list[str] = []
        steps = [(f"chain.{name}", step.student, step.train) for name, step in self.chain.items()]
        if self.student is not None and self.train is not None:
            steps.append(("", self.student, self.train))
        for place, student, train in steps:
            named = {"student.model": student.model}
            named |= {f"train.teachers.{n}.model": t.model for n, t in train.teachers.items()}
            for key, model in named.items():
                name = trained(model)
                if name is not None and name not in known:
                    where = f"{place}.{key}".lstrip(".")
                    raise ValueError(
                        f"{where}: nothing called {name!r} is trained before{nearest(name, known)}"
                    )
            known.append(place.removeprefix("chain."))

    def _sources(self) -> None:
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
    """The name in `trained:NAME`, or None for any other model."""
    return model.removeprefix("trained:") if model.startswith("trained:") else None


def split_plugin(kind: str, entry: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the options of a plug-in as a config writes them.

    Raises:
        UserError: The entry has another form than the one that its kind is written in.
    """
    key = {"teacher": "kind", "task source": "source", "trace source": "source"}.get(kind)
    if key is not None:
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
            raise UserError(f"a {kind} is written {{{key}: NAME, ...}}")
        return entry[key], {k: v for k, v in entry.items() if k != key}
    if isinstance(entry, str):
        return entry, {}
    if len(entry) != 1 or not isinstance(options := next(iter(entry.values())), dict | None):
        raise UserError(f"a {kind} is written NAME, or NAME: {{option: value, ...}}")
    return str(next(iter(entry))), options or {}


def plugin_config(kind: str, entry: str | dict[str, Any]) -> BaseModel:
    """The checked options of a plug-in. Raises UserError or pydantic's ValidationError."""
    name, options = split_plugin(kind, entry)
    config: BaseModel = plugins.load(kind, name).Config(**options)
    return config


def plugin_entries(data: dict[str, Any]) -> list[tuple[str, Path_, Any]]:
    """Every plug-in that a config names: its kind, its place and its entry as written.

    Works on the raw data, so that a mistake elsewhere hides none here.
    """

    def items(*path: str) -> list[tuple[Path_, Any]]:
        here: Any = data
        for step in path:
            here = here.get(step) if isinstance(here, dict) else None
        if isinstance(here, dict):
            return [((*path, key), value) for key, value in here.items()]
        return [((*path, i), v) for i, v in enumerate(here)] if isinstance(here, list) else []

    verifier = [(path, value) for path, value in items("evaluate") if path[-1] == "verifier"]
    return [
        (kind, path, entry)
        for kind, found in (
            ("task source", items("tasks", "train") + items("tasks", "eval")),
            ("trace source", items("traces")),
            ("teacher", items("teachers")),
            ("filter", items("filters") + verifier),
        )
        for path, entry in found
        if isinstance(entry, str | dict)  # other types are reported by the model of the section
    ]


def load_run(name: str, overrides: Sequence[str] = ()) -> tuple[Run, Source]:
    """Reads and checks a config without touching what it names outside itself.

    Raises:
        ConfigError: With every mistake of the file, each with its line.
        UserError: The file cannot be read at all.
    """
    source = read_config(name, overrides)
    problems: list[Problem] = []
    run = None
    try:
        run = Run.model_validate(source.data)
    except ValidationError as error:
        problems += problems_of(source, error, Run)
    for kind, path, entry in plugin_entries(source.data):
        problems += _plugin_problems(source, kind, path, entry)
    problems += _prompt_problems(source)
    raise_if_any(problems, source)
    assert run is not None
    return run, source


def _plugin_problems(source: Source, kind: str, path: Path_, entry: Any) -> list[Problem]:
    try:
        name, _ = split_plugin(kind, entry)
        config = plugins.load(kind, name).Config
    except UserError as error:
        return [source.problem(path, str(error))]
    inner = (*path, name) if kind == "filter" and isinstance(entry, dict) else path
    try:
        made = plugin_config(kind, entry)
    except ValidationError as error:
        return list(problems_of(source, error, config, inner))
    teachers = source.data.get("teachers")
    if getattr(made, "teacher", None) is not None and isinstance(teachers, dict):
        asked = str(made.teacher)  # type: ignore[attr-defined]
        if asked not in teachers:
            message = f"no teacher {asked!r}{nearest(asked, teachers)}"
            return [source.problem((*inner, "teacher"), message)]
    return []


def _prompt_problems(source: Source) -> list[Problem]:
    """Prompts that do not exist, and values that their templates do not know."""
    problems = []
    for section in ("generate", "student"):
        choice = (source.data.get(section) or {}) if isinstance(source.data, dict) else {}
        choice = choice.get("prompt") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(choice.get("template"), str):
            continue
        try:
            prompt = load_prompt(choice["template"])
        except UserError as error:
            problems.append(source.problem((section, "prompt", "template"), str(error)))
            continue
        for key in choice.get("values") or {}:
            if key not in prompt.variables:
                message = f"the template has no variable {key!r}{nearest(key, prompt.variables)}"
                problems.append(source.problem((section, "prompt", "values", key), message))
    return problems


# What each stage uses of what a config names.
_USED_BY = {
    "tasks": {"task source"},
    "import": {"trace source"},
    "augment": {"teacher", "filter"},
    "generate": {"task source", "teacher", "filter"},
    "rewrite": {"teacher", "filter"},
    "filter": {"filter"},
    "label": set(),
    "train": set(),
    "evaluate": {"teacher", "filter"},
}


def machine_problems(run: Run, stages: Sequence[str] | None = None) -> list[str]:
    """What this machine lacks for some stages of a run: packages, environment variables.

    Such a config is right, only not here and now; a run refuses to start with any of these.

    Args:
        run: The checked config.
        stages: All of the config's stages by default.
    """
    stages = stages_of(run) if stages is None else stages
    kinds = set[str]().union(*(_USED_BY[stage.partition("-")[0]] for stage in stages))
    if "generate" not in stages and run.evaluate is not None and not run.evaluate.teacher:
        kinds.discard("teacher")
    lacks: list[str] = []
    for kind, _, entry in plugin_entries(run.model_dump()):
        name, options = split_plugin(kind, entry)
        module = plugins.load(kind, name)
        off = kind == "filter" and options.get("action") in ("off", False)
        if kind in kinds and hasattr(module, "check") and not off:
            lacks += module.check(module.Config(**options))
    if {"train", "evaluate"} & set(stages):
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                lacks.append(str(MissingPackage(package, "the student", extra="train")))
    trainings = {f"train-{name}": step.train for name, step in run.chain.items()}
    for stage, training in {**trainings, "train": run.train}.items():
        if training is not None and stage in stages:
            lacks += map(str, training.missing())
    if "label" in stages and run.label is not None:
        for package in ("torch", "transformers", *(("vllm",) * (run.label.engine == "vllm"))):
            if importlib.util.find_spec(package) is None:
                extra = "vllm" if package == "vllm" else "train"
                lacks.append(str(MissingPackage(package, "the section label", extra=extra)))
    if "evaluate" in stages and run.evaluate is not None:
        lacks += run.evaluate.lacks()
    return list(dict.fromkeys(lacks))


def env_key(variable: str | None, needed_for: str) -> str | None:
    """The secret that an environment variable holds; the config has only the variable's name.

    Raises:
        UserError: The variable is not set.
    """
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise UserError(
            f"{needed_for} takes its key from the environment variable {variable}, which is not set"
        )
    return os.environ[variable]


def json_schema() -> dict[str, Any]:
    """JSON schema of a config, plug-ins included, for editors that complete and check YAML."""
    schema = Run.model_json_schema()
    defs = schema["$defs"]

    def options(kind: str, name: str) -> dict[str, Any]:
        own: dict[str, Any] = plugins.load(kind, name).Config.model_json_schema()
        defs.update(own.pop("$defs", {}))
        own["description"] = plugins.describe(kind, name)
        return own

    def tagged(kind: str, key: str) -> dict[str, Any]:
        branches = []
        for name in plugins.names(kind):
            own = options(kind, name)
            own["properties"] = {key: {"const": name}} | own.get("properties", {})
            own["required"] = [key, *own.get("required", [])]
            branches.append(own)
        dotted = {
            "type": "object",
            "properties": {key: {"type": "string", "pattern": "\\."}},
            "required": [key],
        }
        return {"anyOf": [*branches, dotted]}

    named = {name: options("filter", name) for name in plugins.names("filter")}
    filter_entry = {
        "anyOf": [
            {"enum": list(named)},
            {"type": "string", "pattern": "\\."},
            {
                "type": "object",
                "properties": {
                    name: {"anyOf": [own, {"type": "null"}]} for name, own in named.items()
                },
                "additionalProperties": False,
                "patternProperties": {"\\.": {"type": "object"}},
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    }
    source = tagged("task source", "source")
    defs["Tasks"]["properties"]["train"]["items"] = source
    schema["properties"]["traces"]["anyOf"][0]["items"] = tagged("trace source", "source")
    defs["Tasks"]["properties"]["eval"]["anyOf"][0]["items"] = source
    schema["properties"]["teachers"]["additionalProperties"] = tagged("teacher", "kind")
    schema["properties"]["filters"]["items"] = filter_entry
    defs["Evaluate"]["properties"]["verifier"] = filter_entry
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "synth-distill run"
    return schema


def stages_of(run: Run) -> list[str]:
    """The stages that a config asks for, in their order."""
    asked = {
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
    return [name for name, wanted in asked.items() if wanted]


def questions_of(run: Run) -> str:
    """The stage whose questions are answered."""
    return "augment" if run.augment else "tasks"


def traces_of(run: Run) -> str:
    """The stage whose traces are filtered."""
    if run.traces is not None:
        return "import"
    return "rewrite" if run.rewrite else "generate"
