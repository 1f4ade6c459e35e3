"""The participants of an evaluation: students before and after, the chain's models, teachers."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import Any

from synth.config.distillation import TeacherModel
from synth.config.evaluate import Evaluate
from synth.config.run import RunStudent
from synth.core import plugins
from synth.core.files import read_json, write_json
from synth.core.models import weights_identity
from synth.stages.build_student import model_path
from synth.stages.build_teachers import build_teachers, teacher_options
from synth.stages.context import StageContext
from synth.teachers.base import Teacher

_CONCURRENCY = 256  # requests to an engine that makes up its own batches


@dataclass(frozen=True)
class Weights:
    """A student as weights on the disk."""

    path: str  # what loads it: a folder, or any other name of a model
    student: RunStudent
    template: str | None = None  # the chat template in place of the weights' own


@dataclass(frozen=True)
class Participant:
    """Someone who is evaluated."""

    title: str
    teachers: dict[str, Teacher]  # what answers for it, by name
    prompt: str  # name of the template that it is asked under
    values: dict[str, Any]  # of the template's variables
    options: dict[str, Any] = field(default_factory=dict)  # further fields of its `GenerationSpec`
    weights: Weights | None = None  # of a student


def chain_manifests(section: Evaluate, context: StageContext) -> dict[str, dict[str, Any]]:
    """Returns the manifests of the chain's trained models, where the config wants them asked."""
    names = context.run.chain if section.chain else ()
    manifests = {name: context.folder.manifest(f"train-{name}") for name in names}
    return {name: manifest for name, manifest in manifests.items() if manifest is not None}


def participants(section: Evaluate, context: StageContext) -> dict[str, Participant]:
    """Returns who is evaluated, by the key under which results stand."""
    run, folder = context.run, context.folder
    everyone = {"before": _student(section, "student before", _before(context))}
    if manifest := folder.manifest("train"):
        weights = Weights(str(folder.stage("train") / manifest["student"]), context.student)
        everyone["after"] = _student(section, "student after", weights)
    for name in chain_manifests(section, context):
        weights = Weights(model_path(run, f"trained:{name}"), run.chain[name].student)
        # A chain may well call a model `teacher`, so its key says what it is.
        everyone[f"chain_{name}"] = _student(section, f"{name} (chain)", weights)
    if section.teacher and run.generate is not None:
        teachers = build_teachers(run)
        everyone["teacher"] = Participant(
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


def build_engine(
    section: Evaluate, name: str, path: str, model: RunStudent | TeacherModel, template: str | None
) -> tuple[str, Any, Teacher]:
    """Returns the engine of the config with a model's weights: its kind, its options, itself."""
    kind, options = section.engine_for(
        path,
        dtype=model.dtype,
        batch_size=section.batch_size,
        trust_remote_code=model.trust_remote_code,
        chat_template=template,
    )
    return kind, options, plugins.load("teacher", kind).build(options, name)


def _student(section: Evaluate, title: str, weights: Weights) -> Participant:
    """Returns a student, answered for by the engine of the config."""
    student = weights.student
    kind, options, teacher = build_engine(
        section, "student", weights.path, student, weights.template
    )
    concurrency = 2 * section.batch_size if kind == "transformers" else _CONCURRENCY
    return Participant(
        title,
        {"student": teacher},
        student.prompt.template,
        student.prompt.values,
        {"concurrency": concurrency, "options": {"student": options}},
        weights,
    )


def _before(context: StageContext) -> Weights:
    """Returns what training starts from.

    It is asked through the chat template that it will be trained with, so that training is the
    only difference. A student cut out of a model, or widened, is saved once: engines load folders.
    """
    from sft.models.student import load_student

    setup, student = context.student_setup, context.student
    path = setup.student.model
    if student.layers is None and student.rope is None:
        return Weights(path, student, setup.template)
    identity = {
        "weights": weights_identity(path),
        "student": student.model_dump(mode="json", include={"layers", "rope", "dtype"}),
    }
    saved = context.folder.stage("before-model")
    if read_json(saved / "made_of.json") != identity:
        shutil.rmtree(saved, ignore_errors=True)
        start = setup.student.model_copy(update={"attention": None})
        load_student(start, device="cpu").save_pretrained(saved)
        setup.tokenizer.save_pretrained(saved)
        write_json(saved / "made_of.json", identity)  # last: what a kill leaves half has none
    return Weights(str(saved), student, setup.template)
