"""The teachers of a training: models in memory, or the soft labels that they left."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.data.dataset import Examples
from sft.labels.store import LabelStore, tokens_hash
from sft.models.student import load_teacher
from sft.models.vocabulary import shared_vocabulary
from synth.config.distillation import SoftLabels
from synth.config.train import Train
from synth.core.errors import UserError
from synth.core.models import load_tokenizer, weights_identity


@dataclass(frozen=True)
class Teachers:
    """What a student learns from beyond text: teachers in memory, or the labels that they left."""

    models: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, LabelStore] = field(default_factory=dict)
    vocabulary: int | None = None  # how many ids the student shares with all of them
    # Their shares, of all examples or of those of each writer; None: all alike.
    weights: list[float] | dict[str, list[float]] | None = None
    per_writer: bool = False  # whether each example takes its writer's stored labels alone


def teachers_identity(
    config: Train, labels: Path | None, accuracies: dict[str, float] | None
) -> dict[str, Any]:
    """Returns all of the teachers that the student's weights depend on."""
    return {
        "weights": {name: weights_identity(t.model) for name, t in config.teachers.items()},
        "labels": {name: LabelStore(labels / name).manifest for name in config.teachers}
        if labels
        else None,
        "accuracies": accuracies,
    }


def load_teachers(
    config: Train,
    tokenizer: Any,
    examples: Examples,
    labels: Path | None = None,
    accuracies: dict[str, float] | None = None,
) -> Teachers:
    """Loads the teachers of a config, or opens their labels and holds them against the data.

    The label sets lie in `labels`, a folder a teacher; None: the teachers come into memory.

    Raises:
        UserError: Another tokenizer, labels of other data, or a trace whose writer is no teacher.
    """
    if not config.teachers or config.method == "on_policy":
        return Teachers()
    soft = config.soft_labels or SoftLabels()
    names, per_writer = list(config.teachers), soft.weights == "producer"
    weights: list[float] | dict[str, list[float]] | None = None
    if per_writer:
        check_writers(examples, names)
        weights = {name: [float(name == other) for other in names] for name in names}
    elif soft.weights == "accuracy":
        weights = [max((accuracies or {}).get(name, 0.0), 1e-3) for name in names]
    elif len(names) > 1:
        weights = given_weights(config)
    vocabulary = min(
        shared_with(tokenizer, name, load_tokenizer(model.model, model.trust_remote_code))
        for name, model in config.teachers.items()
    )
    if labels is None:
        models = {name: load_teacher(teacher) for name, teacher in config.teachers.items()}
        return Teachers(models, {}, vocabulary, weights)
    stores = {name: LabelStore(labels / name) for name in names}
    for name, store in stores.items():
        if soft.temperature not in store.temperatures:
            raise UserError(
                f"train.soft_labels.temperature: {soft.temperature:g}, but the labels of {name} "
                f"were stored for {', '.join(f'{t:g}' for t in store.temperatures)}; a temperature "
                "cannot be made from another, add it to label.temperatures"
            )
        pairs = (
            (examples.ids[i], tokens_hash(examples[i]))
            for i, writer in enumerate(examples.writers)
            if writer == name or not per_writer
        )
        store.check(pairs, vocabulary=vocabulary)
    return Teachers({}, stores, vocabulary, None if per_writer else weights, per_writer)


def given_weights(config: Train) -> list[float]:
    """Returns the weights of several teachers; raises UserError where all of them are 0."""
    weights = [teacher.weight for teacher in config.teachers.values()]
    if not any(weights):
        raise UserError("train.teachers: the weight of each is 0; give one of them another")
    return weights


def shared_with(tokenizer: Any, name: str, teacher_tokenizer: Any) -> int:
    """Counts the ids that the student shares with a teacher; see `shared_vocabulary`."""
    try:
        return shared_vocabulary(tokenizer, teacher_tokenizer)
    except UserError as error:
        raise UserError(f"train.teachers.{name}: {error}") from error


def check_writers(examples: Examples, names: list[str]) -> None:
    """Raises UserError where a trace was written by none of the teachers."""
    strangers = {writer for writer in examples.writers if writer not in names}
    if strangers:
        count = sum(writer in strangers for writer in examples.writers)
        shown = ", ".join(sorted(name or "nobody" for name in strangers)[:3])
        raise UserError(
            f"train.soft_labels.weights: producer: {count} of {len(examples)} traces were written "
            f"by {shown}, who is not among train.teachers ({', '.join(names)}); give them the "
            "names that they have under teachers"
        )
