"""The student of a run: its tokenizer, chat template and prompt, and the training's settings."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from synth.config.run import ChainStep, Run, RunStudent, trained
from synth.core.errors import UserError
from synth.core.hub import hub_answers, offline
from synth.core.models import load_model, load_tokenizer, locate
from synth.core.prompts import Prompt, load_prompt
from synth.core.record import Message, Task
from synth.core.run_folder import RunFolder


@dataclass(frozen=True)
class StudentSetup:
    """What a student reads by: tokenizer, chat template and prompt, each made at its first use."""

    student: RunStudent  # its `model` is what can be loaded

    @classmethod
    def from_config(cls, run: Run, student: RunStudent) -> StudentSetup:
        """Returns the setup of a student of the config. Raises UserError as `model_path`."""
        return cls(student.model_copy(update={"model": model_path(run, student.model)}))

    @cached_property
    def tokenizer(self) -> Any:
        """The model's own tokenizer."""
        return load_tokenizer(self.student.model, self.student.trust_remote_code)

    @cached_property
    def template(self) -> str:
        """The chat template that it is trained with, as Jinja2."""
        from sft.data.chat_template import select_template

        return select_template(self.tokenizer, self.student.chat_template)

    @cached_property
    def training_tokenizer(self) -> Any:
        """The tokenizer with the chat template of the training."""
        from sft.data.chat_template import set_chat_template

        set_chat_template(self.tokenizer, self.template)
        return self.tokenizer

    @cached_property
    def prompt(self) -> Prompt:
        """The prompt under which it is trained and asked."""
        return load_prompt(self.student.prompt.template)

    @property
    def prompt_identity(self) -> list[Any]:
        """The prompt's hash and values: with others it sees other questions."""
        return [self.prompt.hash, self.student.prompt.values]

    def messages(self, task: Task) -> list[Message]:
        """Returns what the student sees before it answers a task."""
        return self.prompt.messages(task, self.student.prompt.values)


def written_step(run: Run, name: str = "") -> ChainStep:
    """Returns student and training as the config writes them: the run's, or a chain step's."""
    if name:
        return run.chain[name]
    assert run.student is not None
    assert run.train is not None
    return ChainStep.model_construct(student=run.student, train=run.train)


def resolved_step(run: Run, step: ChainStep) -> ChainStep:
    """Returns a training in which every `trained:NAME` is the folder of that model.

    Raises UserError as `model_path`.
    """
    teachers = {
        key: teacher.model_copy(update={"model": model_path(run, teacher.model)})
        for key, teacher in step.train.teachers.items()
    }
    return ChainStep.model_construct(
        student=StudentSetup.from_config(run, step.student).student,
        train=step.train.model_copy(update={"teachers": teachers}),
    )


def model_path(run: Run, model: str) -> str:
    """Returns what `trained:NAME` stands for in a run; any other model as it is.

    Raises UserError where that model is not trained yet.
    """
    name = trained(model)
    if name is None:
        return model
    path = RunFolder(run.folder).stage(f"train-{name}") / "student"
    if not path.is_dir():
        raise UserError(f"{model}: not trained yet; `distill train` does it, or `distill run`")
    return str(path)


@functools.lru_cache(maxsize=2)
def token_counter(model: str, trust_remote_code: bool) -> Callable[[str], int]:
    """Returns what counts the tokens of a text as a model sees them, without special tokens."""
    tokenizer = load_tokenizer(model, trust_remote_code)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


@functools.lru_cache(maxsize=1)
def untrained_model(model: str, dtype: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """Returns a model and its tokenizer, kept in memory for the next call."""
    tokenizer = load_tokenizer(model, trust_remote_code)
    return load_model(model, dtype, trust_remote_code=trust_remote_code), tokenizer


def student_counter(run: Run) -> Callable[[str], int] | None:
    """Returns what counts the student's tokens, or None where its tokenizer cannot be had."""
    if run.student is None or importlib.util.find_spec("transformers") is None:
        return None
    model = run.student_origin
    try:
        is_local = Path(locate(model)[0]).is_dir()
        # A figure for the progress line is not worth the minutes that the hub's client would try.
        with contextlib.nullcontext() if is_local or hub_answers() else offline():
            return token_counter(model, run.student.trust_remote_code)
    except UserError:  # a hub that cannot be reached: no filter has asked for it
        return None
