"""Checks what the training would refuse, before anything is bought: `validate`, and before a run.

It reads configs and tokenizers, no weights, and calls the functions that the training calls.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from synth.config.plugin_entries import split_plugin
from synth.config.run import Run, RunStudent
from synth.config.train import Student, Train
from synth.config.yaml_file import Path_, Source
from synth.core.errors import ConfigError, UserError
from synth.core.process.environment import first_process
from synth.core.progress import doing, shown
from synth.core.record import Message, Task
from synth.core.run_folder import RunFolder
from synth.stages._train.lookup import Lookup, NotSeen
from synth.stages.build_student import StudentSetup

if TYPE_CHECKING:
    from sft.training.check import Findings

_FAR_MORE = 32  # times the room that the student has: next to no trace would fit
# Keys that a message of the losses begins with; they stand under train.hidden_states.
_UNDER_TRAIN = ("hidden_states", "layers", "relations", "relation_layers")


@dataclass
class TrainingReport:
    """What was checked of the trainings of a run, what was not, and what is wrong."""

    checked: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[tuple[Path_, str]] = field(default_factory=list)  # path in the config, message

    def refuse(self, source: Source | None = None) -> None:
        """Raises ConfigError with all that is wrong, each with its place where that is known."""
        if self.problems:
            source = source or Source("", {})
            raise ConfigError([source.problem(path, text) for path, text in self.problems])


def check_training(run: Run) -> TrainingReport:
    """Checks every training of a run that is not done with these settings."""
    report = TrainingReport()
    lookup = Lookup(run)
    with shown(remains=False) if first_process() else contextlib.nullcontext():
        for name, step in _trainings(run).items():
            if not _is_done(run, name, step):
                _check(run, name, step, lookup, report)
    return report


@dataclass(frozen=True)
class _Training:
    """A student and how it is trained; None: it is evaluated as it is."""

    student: RunStudent
    train: Train | None


def _trainings(run: Run) -> dict[str, _Training]:
    """Returns the trainings by the name of their chain step; that of the student is called ""."""
    if run.student is None or (run.train or run.evaluate) is None:
        return {}
    steps = {name: _Training(step.student, step.train) for name, step in run.chain.items()}
    return {**steps, "": _Training(run.student, run.train)}


def _is_done(run: Run, name: str, step: _Training) -> bool:
    """Says whether a student was trained with these settings, on whatever traces."""
    from synth.stages.train import inputs_in_form

    manifest = RunFolder(run.folder).manifest(f"train-{name}" if name else "train")
    if manifest is None or step.train is None:
        return False
    now = {
        **manifest["inputs"],
        "train": step.train.decisive(),
        "student": step.student.model_dump(mode="json"),
    }
    return inputs_in_form(manifest["inputs"], now) == now


def _check(run: Run, name: str, step: _Training, lookup: Lookup, report: TrainingReport) -> None:
    who = f"chain.{name}" if name else "student"
    prefix: Path_ = ("chain", name) if name else ()
    default = (*prefix, "student", "model")
    if step.student.chat_template != "auto":
        from sft.data.chat_template import template_text

        try:
            template_text(step.student.chat_template)
        except UserError as error:
            report.problems.append(_placed(error, prefix, default))
            return
    lacking = [p for p in ("torch", "transformers") if importlib.util.find_spec(p) is None]
    if lacking:
        report.unchecked.append(f"not checked: {who}: not installed: {', '.join(lacking)}")
        return
    try:
        lookup.find(step.student.model)
    except NotSeen as reason:
        report.unchecked.append(f"not checked: {step.student.model} ({who}): {reason}")
        return
    except UserError as error:
        report.problems.append(_placed(error, prefix, default))
        return
    with doing("importing torch and transformers"):
        from sft.training.check import Findings, check_methods, check_student

    findings = Findings()
    with findings.collected():
        try:
            messages = _made_up_prompt(step.student)
            tokenizer = lookup.tokenizer(step.student.model, step.student.trust_remote_code)
            model = lookup.skeleton(step.student)
        except NotSeen as reason:
            report.unchecked.append(f"not checked: {step.student.model} ({who}): {reason}")
            return
        longest = step.train.max_length if step.train else None
        room = check_student(tokenizer, model, step.student, messages, longest, findings)
        _check_lengths(run, room, findings)
        no_template = any("chat_template" in str(problem) for problem in findings.problems)
        if step.train and not no_template:
            teachers = _teachers(step.train, lookup, report, findings)
            check_methods(tokenizer, model, step.train, messages, teachers, findings)
    if run.label is not None and step.train and not name:
        from synth.stages.label import check_label

        with findings.collected():
            check_label(run.label, step.train)
    report.checked += [f"{who}: {line}" for line in findings.checked]
    report.notes += [f"note: {who}: {line}" for line in findings.notes]
    report.problems += [_placed(error, prefix, default) for error in findings.problems]


def _made_up_prompt(student: RunStudent) -> list[Message]:
    """Returns the student's prompt for a question that is next to nothing.

    What a column of the data would give (choices, tests) is next to nothing, too.
    """
    setup = StudentSetup(student)
    task = Task("made-up", "?", metadata=dict.fromkeys(setup.prompt.variables, "?"))
    try:
        return setup.messages(task)
    except UserError:  # a template that wants a column of another kind
        return [Message(role="user", content="?")]


def _teachers(
    train: Train, lookup: Lookup, report: TrainingReport, findings: Findings
) -> dict[str, tuple[Any, Any]]:
    """Returns tokenizer and skeleton of each teacher that can be looked at."""
    teachers = {}
    for name, teacher in train.teachers.items():
        student = Student(model=teacher.model, trust_remote_code=teacher.trust_remote_code)
        try:
            tokenizer = lookup.tokenizer(teacher.model, teacher.trust_remote_code)
            teachers[name] = tokenizer, lookup.skeleton(student)
        except NotSeen as reason:
            report.unchecked.append(
                f"not checked: {teacher.model} (train.teachers.{name}): {reason}"
            )
        except UserError as error:
            findings.problems.append(UserError(f"train.teachers.{name}.model: {error}"))
    return teachers


def _check_lengths(run: Run, room: int | None, findings: Findings) -> None:
    """Holds what teachers and student may write against the room that the student has."""
    if room is None:
        return
    if run.evaluate is not None and (longest := run.evaluate.sampling.max_tokens) > room:
        findings.notes.append(
            f"evaluate.sampling.max_tokens is {longest:,}: an answer of more than {room:,} tokens, "
            "question included, runs over the student's window"
        )
    names = {split_plugin("filter", entry)[0] for entry in run.filters}
    if run.generate is None or run.train is None or "length" in names:
        return
    longest = run.generate.sampling.max_tokens
    way = (
        f"the filter length drops such traces (filters: [{{length: {{tokens_max: {room // 2}}}}}])"
    )
    if longest > _FAR_MORE * room:
        findings.problems.append(
            UserError(
                f"generate.sampling.max_tokens: teachers may write {longest:,} tokens, and the "
                f"student has room for {room:,} with the question; a trace that is longer stops "
                f"the training. Take a model with a longer window, lower max_tokens, or {way}"
            )
        )
    elif longest > room:
        findings.notes.append(
            f"generate.sampling.max_tokens is {longest:,}, and there is room for {room:,} tokens "
            f"of question and trace. A kept trace that is longer stops the training; {way}"
        )


_KEY = re.compile(r"((?:student|train|label|evaluate|generate)(?:\.[\w-]+)*): (.*)", re.DOTALL)


def _placed(error: UserError, prefix: Path_, default: Path_) -> tuple[Path_, str]:
    """Parts the key at the head of a message from it; one without a key is of the model."""
    text = str(error)
    if match := _KEY.match(text):
        path = tuple(match[1].split("."))
        return (*prefix, *path) if path[0] in ("student", "train") else path, match[2]
    head = text.partition(":")[0].partition(".")[0]
    if head in _UNDER_TRAIN:
        return (*prefix, "train", "hidden_states"), text
    return default, text
