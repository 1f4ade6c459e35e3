"""Validation of a whole config: sections, plug-ins and prompts together."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from synth.config.plugin_entries import plugin_config, plugin_entries, split_plugin
from synth.config.run import Run, stages_of
from synth.config.yaml_file import Path_, Source, problems_of, raise_if_any, read_config
from synth.core import plugins
from synth.core.errors import MissingPackage, Problem, UserError, nearest
from synth.core.prompts import load_prompt


def load_run(name: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> tuple[Run, Source]:
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
