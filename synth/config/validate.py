"""Validates a whole config: sections, plug-ins and prompts together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from synth.config.plugin_entries import plugin_config, plugin_entries, split_plugin
from synth.config.relative_paths import config_folder, resolve_paths
from synth.config.run import Run, stages_of
from synth.config.secret_values import NAME_EXPECTED, key_like_names
from synth.config.yaml_file import Path_, Source, problems_of, raise_if_any, read_config
from synth.core import plugins
from synth.core.errors import Problem, UserError, lacks_package, nearest
from synth.core.prompts import load_prompt


def load_run(name: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> tuple[Run, Source]:
    """Reads and checks a config without touching what it names outside itself.

    Raises ConfigError with every mistake of the file, each with its line, and UserError where the
    file cannot be read at all.
    """
    source = read_config(name, overrides)
    source.notes += resolve_paths(source)
    plugins.search_in(config_folder(source))
    problems: list[Problem] = []
    run = None
    try:
        run = Run.model_validate(source.data)
    except ValidationError as error:
        problems += problems_of(source, error, Run, run=Run)
    for kind, path, entry in plugin_entries(source.data):
        problems += _plugin_problems(source, kind, path, entry)
    problems += [source.problem(path, NAME_EXPECTED) for path in key_like_names(source.data)]
    problems += _prompt_problems(source)
    if run is not None and not problems:
        problems += _sampling_problems(source, run)
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
        options = plugin_config(kind, entry)
    except ValidationError as error:
        return list(problems_of(source, error, config, inner, Run))
    teacher, teachers = getattr(options, "teacher", None), source.data.get("teachers")
    if teacher is not None and isinstance(teachers, dict) and str(teacher) not in teachers:
        message = f"no teacher {str(teacher)!r}{nearest(str(teacher), teachers)}"
        return [source.problem((*inner, "teacher"), message)]
    return []


def _prompt_problems(source: Source) -> list[Problem]:
    """Finds prompts that do not exist, and values that their templates do not know."""
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


def _sampling_problems(source: Source, run: Run) -> list[Problem]:
    """Finds parameters of the sampling that a teacher's API does not have."""
    problems: dict[Path_, Problem] = {}
    generate = run.generate
    for teacher in (generate.teachers or list(run.teachers)) if generate else ():
        if generate is None or teacher not in run.teachers:
            continue
        kind, _ = split_plugin("teacher", run.teachers[teacher])
        check_sampling = getattr(plugins.load("teacher", kind), "check_sampling", None)
        if check_sampling is None:
            continue
        sent = generate.sampling.parameters(0)
        places: dict[str, Path_] = {
            name: (
                "generate",
                "sampling",
                *(("extra",) if name in generate.sampling.extra else ()),
                name,
            )
            for name in sent
        }
        if generate.truncation.policy == "continue":
            sent["continue_final_message"] = True
            places["continue_final_message"] = ("generate", "truncation", "policy")
        options = plugin_config("teacher", run.teachers[teacher])
        for name, why in check_sampling(options, sent).items():
            place = places.get(name, ("generate", "sampling"))
            message = f"teacher {teacher} (kind: {kind}) takes no {name}: {why}"
            problems.setdefault(place, source.problem(place, message))
    return list(problems.values())


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


def _plugins_used(run: Run, stages: Sequence[str]) -> Iterator[tuple[ModuleType, BaseModel]]:
    """Yields the module and the options of each plug-in that some stages of a run use."""
    kinds = set[str]().union(*(_USED_BY[stage.partition("-")[0]] for stage in stages))
    if "generate" not in stages and run.evaluate is not None and not run.evaluate.teacher:
        kinds.discard("teacher")
    for kind, _, entry in plugin_entries(run.model_dump()):
        name, options = split_plugin(kind, entry)
        module = plugins.load(kind, name)
        off = kind == "filter" and options.get("action") in ("off", False)
        if kind in kinds and not off:
            yield module, module.Config(**options)


def machine_warnings(run: Run, stages: Sequence[str] | None = None) -> list[str]:
    """Says what goes on with less on this machine or today: no sandbox for code, a model's end."""
    stages = stages_of(run) if stages is None else stages
    warnings: list[str] = []
    for module, options in _plugins_used(run, stages):
        if hasattr(module, "warn"):
            warnings += module.warn(options)
    return list(dict.fromkeys(warnings))


def machine_problems(run: Run, stages: Sequence[str] | None = None) -> list[str]:
    """Says what this machine lacks for some stages of a run, or for all: packages, variables.

    Such a config is right, only not here and now; a run refuses to start with any of these.
    """
    stages = stages_of(run) if stages is None else stages
    kinds_of_stage = {stage.partition("-")[0] for stage in stages}  # a chain has `train-NAME`
    lacks: list[str] = []
    for module, options in _plugins_used(run, stages):
        if hasattr(module, "check"):
            lacks += module.check(options)
    if kinds_of_stage & {"train", "evaluate"}:
        for package in ("torch", "transformers"):
            lacks += lacks_package(package, "the student", "train")
    trainings = {f"train-{name}": step.train for name, step in run.chain.items()}
    for stage, training in {**trainings, "train": run.train}.items():
        if training is not None and stage in stages:
            lacks += map(str, training.missing())
    if "label" in stages and run.label is not None:
        for package in ("torch", "transformers"):
            lacks += lacks_package(package, "the section label", "train")
        if run.label.engine == "vllm":
            lacks += lacks_package("vllm", "the section label", "vllm")
    if "evaluate" in stages and run.evaluate is not None:
        lacks += run.evaluate.lacks()
    return list(dict.fromkeys(lacks))
