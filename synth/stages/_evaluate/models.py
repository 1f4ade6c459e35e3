"""Placeholder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from synth.config.run import Run, RunStudent
from synth.core import plugins
from synth.core.files import read_json, write_json
from synth.core.models import load_tokenizer, weights_identity
from synth.core.run_folder import Folder
from synth.stages.build_student import model_path, stage_name
from synth.stages.build_teachers import build_teachers, teacher_options
from synth.teachers.base import Teacher

if TYPE_CHECKING:
    pass


# Requests to an engine that makes up its own batches.
_CONCURRENCY = 256


@dataclass(frozen=True)
class _Weights:
    """A student as weights on the disk.

    Attributes:
        place: What loads it: a folder, or any other name of a model.
        student: Its section of the config.
        template: The chat template in place of the weights' own.
    """

    place: str
    student: RunStudent
    template: str | None = None


@dataclass(frozen=True)
class _Asked:
    """Someone who is evaluated: under which prompt, as which model, and how it is asked."""

    title: str
    teachers: dict[str, Teacher]
    prompt: str
    values: dict[str, Any]
    how: dict[str, Any] = field(default_factory=dict)
    weights: _Weights | None = None


def _chain(run: Run, folder: Folder) -> dict[str, dict[str, Any]]:
    """The manifests of the chain's models that are trained, where the config wants them asked."""
    assert run.evaluate is not None
    names = run.chain if run.evaluate.chain else ()
    found = {name: folder.manifest(stage_name(name)) for name in names}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def _everyone(run: Run, folder: Folder) -> dict[str, _Asked]:
    """Who is evaluated: the student before and after, the chain's models, the teachers."""
    assert run.student is not None
    assert run.evaluate is not None
    everyone = {"before": _student(run, "student before", _before(run, folder))}
    if manifest := folder.manifest("train"):
        place = str(folder.stage("train") / manifest["student"])
        everyone["after"] = _student(run, "student after", _Weights(place, run.student))
    for name in _chain(run, folder):
        weights = _Weights(model_path(run, f"trained:{name}"), run.chain[name].student)
        # A chain may well call a model `teacher`, so its key says what it is.
        everyone[f"chain_{name}"] = _student(run, f"{name} (chain)", weights)
    if run.evaluate.teacher and run.generate is not None:
        teachers = build_teachers(run)
        everyone["teacher"] = _Asked(
            "teacher",
            teachers,
            run.generate.prompt.template,
            run.generate.prompt.values,
            # As in the generation: it is the same money.
            {
                "concurrency": run.generate.concurrency,
                "options": teacher_options(run, teachers),
                "budget": run.budget,
                "patience_s": run.generate.patience_s,
                "run": run.name,
            },
        )
    return everyone


def _student(run: Run, title: str, weights: _Weights) -> _Asked:
    """A student, answered for by the engine of the config."""
    assert run.evaluate is not None
    student = weights.student
    kind, options = run.evaluate.engine_for(
        weights.place,
        dtype=student.dtype,
        batch_size=run.evaluate.batch_size,
        trust_remote_code=student.trust_remote_code,
        chat_template=weights.template,
    )
    teacher: Teacher = plugins.load("teacher", kind).build(options, "student")
    concurrency = 2 * run.evaluate.batch_size if kind == "transformers" else _CONCURRENCY
    return _Asked(
        title,
        {"student": teacher},
        student.prompt.template,
        student.prompt.values,
        {"concurrency": concurrency, "options": {"student": options}},
        weights,
    )


def _before(run: Run, folder: Folder) -> _Weights:
    """What training starts from.

    It is asked through the chat template that it will be trained with, so that training is the
    only difference. A student cut out of a model, or widened, is saved once: engines load folders.
    """
    from sft.data.chat_template import choose
    from sft.models.student import load_student

    student = run.student
    assert student is not None
    place = model_path(run, student.model)
    tokenizer = load_tokenizer(place, student.trust_remote_code)
    template = choose(tokenizer, student.chat_template)
    if student.layers is None and student.rope is None:
        return _Weights(place, student, template)
    made_of = {
        "weights": weights_identity(place),
        "student": student.model_dump(mode="json", include={"layers", "rope", "dtype"}),
    }
    saved = folder.stage("before-model")
    if read_json(saved / "made_of.json") != made_of:
        shutil.rmtree(saved, ignore_errors=True)
        start = student.model_copy(update={"model": place, "attention": None})
        load_student(start, device="cpu").save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        write_json(saved / "made_of.json", made_of)  # last: what a kill leaves half has none
    return _Weights(str(saved), student, template)
