"""Placeholder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from synth.config.run import ChainStep, Run, trained
from synth.core.errors import UserError
from synth.core.prompts import load_prompt
from synth.core.record import Message, Task
from synth.core.run_folder import Folder


def step_of(run: Run, name: str | None) -> ChainStep:
    """The student and its training: of the run, or of a step of its chain; `trained:` resolved."""
    if name is None:
        assert run.student is not None
        assert run.train is not None
        step = ChainStep(student=run.student, train=run.train)
    else:
        step = run.chain[name]
    teachers = {
        key: teacher.model_copy(update={"model": model_path(run, teacher.model)})
        for key, teacher in step.train.teachers.items()
    }
    return ChainStep.model_construct(
        student=step.student.model_copy(update={"model": model_path(run, step.student.model)}),
        train=step.train.model_copy(update={"teachers": teachers}),
    )


def stage_name(name: str | None) -> str:
    """The folder of a training: `train`, or `train-NAME` of a step of the chain."""
    return "train" if name is None else f"train-{name}"


def model_path(run: Run, model: str) -> str:
    """What `trained:NAME` stands for in a run; any other model as it is.

    Raises:
        UserError: That model is not trained yet.
    """
    name = trained(model)
    if name is None:
        return model
    path = Folder(run.folder).stage(stage_name(name)) / "student"
    if not path.is_dir():
        raise UserError(f"{model}: not trained yet; `distill train` does it, or `distill run`")
    return str(path)


def prompt_of(student: Any) -> Callable[[Task], list[Message]]:
    """What a student sees before it answers a task."""
    prompt, values = load_prompt(student.prompt.template), student.prompt.values
    return lambda task: prompt.messages(task, values)
