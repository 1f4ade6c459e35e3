"""Every method, from records to a saved student: the step, what is logged, and going on after a kill."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
import dense_reference as reference
from training_making import (
    examples_in,
    lines,
    one_step,
    prompt,
    records,
    run,
    save_tiny,
    store_labels,
)

from sft.hidden import NAME
from sft.label_store import LabelStore, tokens_hash
from sft.objective import PARTS
from synth.distil_config import HiddenStates, SoftLabels, TeacherModel
from synth.models import load_model
from synth.training_config import Lora, Train


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A student and two teachers of other shapes, with one tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "student": save_tiny(folder / "student"),
        "a": save_tiny(folder / "a", 1, hidden_size=48, num_hidden_layers=3),
        "b": save_tiny(folder / "b", 2, hidden_size=16),
    }


@pytest.fixture(scope="module")
def labels(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    _, examples = examples_in(models["student"], folder, records(writers=("a", "b")))
    return store_labels({n: models[n] for n in "ab"}, examples, folder)


SOFT = SoftLabels(alpha=0.4)
PRODUCER = SoftLabels(weights="producer", divergence="jsd")
HIDDEN = HiddenStates(teacher="a", cosine=0.5, relations=0.3, output=0.8)
# The method, its teachers with their weights, its sections, and whether its labels are stored.
METHODS = {
    "sft": ("sft", {}, {}, False),
    "soft_labels": ("soft_labels", {"a": 1}, {"soft_labels": SOFT}, False),
    "stored": ("soft_labels", {"a": 1}, {"soft_labels": SOFT}, True),
    "two": ("soft_labels", {"a": 1, "b": 3}, {"soft_labels": SOFT}, False),
    "two_stored": ("soft_labels", {"a": 1, "b": 3}, {"soft_labels": SOFT}, True),
    "producer": ("soft_labels", {"a": 1, "b": 1}, {"soft_labels": PRODUCER}, False),
    "producer_stored": ("soft_labels", {"a": 1, "b": 1}, {"soft_labels": PRODUCER}, True),
    "hidden_states": ("hidden_states", {"a": 1}, {"hidden_states": HIDDEN}, False),
    "all_of_it": (
        "hidden_states",
        {"a": 1, "b": 3},
        {"hidden_states": HIDDEN, "soft_labels": SOFT},
        False,
    ),
}
# All of the data in one optimizer step, however it is cut.
CUTS = [
    {"layout": "padded", "batch_size": 8},
    {"layout": "padded", "batch_size": 3, "gradient_accumulation": 3},
    {"layout": "padding_free", "batch_size": 4, "gradient_accumulation": 2},
    {"layout": "packed", "batch_size": 1, "gradient_accumulation": 16},
]


def config_of(which, models, **more):
    method, weights, sections, _ = METHODS[which]
    teachers = {
        n: TeacherModel(model=str(models[n]), weight=w, dtype="float32") for n, w in weights.items()
    }
    return Train(method=method, teachers=teachers, **sections, **{"epochs": 1, **more})


def dense(which, models, labels, folder, before, heads):
    """The same step by the dense reference: loss, parts, and the gradient of every weight."""
    data = records(writers=("a", "b"))
    _, examples = examples_in(models["student"], folder, data)
    config = config_of(which, models)
    encoded = [examples[i] for i in range(len(examples))]
    student = load_model(str(models["student"])).double()
    teachers = [load_model(str(models[name])).double() for name in config.teachers]
    soft, shares = config.soft_labels, None
    if soft and soft.weights == "producer":
        shares = [[float(n == writer) for n in config.teachers] for writer in examples.writers]
    elif len(teachers) > 1:
        shares = [[0.25, 0.75]] * len(encoded)
    stored = None
    if METHODS[which][3]:
        stored = []
        for index, example in enumerate(encoded):
            stored.append([])
            for name in config.teachers:
                found = LabelStore(labels / name).get(examples.ids[index], tokens_hash(example))
                parts = found.top_ids.astype("int64"), found.top_logits, found.lse[:, 0]
                tensors = [torch.from_numpy(part) for part in parts]
                stored[-1].append([tensors[0], tensors[1].double(), tensors[2].double()])
    projections = [p.requires_grad_() for p in before]
    hidden = ([(1, 2), (2, 3)], projections or None, heads, 0) if config.hidden_states else None
    loss, sums, labelled = reference.step(
        student, encoded, config, teachers, shares or [[1.0]] * len(encoded), stored, hidden
    )
    loss.backward()
    slopes = {name: p.grad for name, p in student.named_parameters()}
    slopes |= {f"{NAME}.{i}": p.grad for i, p in enumerate(projections)}
    return loss.item(), {name: float(sums[name]) / labelled for name in PARTS}, slopes


@pytest.mark.parametrize("which", METHODS)
def test_a_step_is_the_dense_reference_however_the_batch_is_cut(which, models, labels, tmp_path):
    want = None
    for number, cut in enumerate(CUTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        config = config_of(which, models, max_grad_norm=0, **cut)
        data = records(writers=("a", "b"))
        stored = labels if METHODS[which][3] else None
        (slopes,), rows, hidden, before = one_step(models["student"], folder, data, config, stored)
        if want is None:
            heads = hidden.relation_heads if hidden else 1
            if hidden:
                assert hidden.pairs == [(1, 2), (2, 3)]
            want = dense(which, models, labels, tmp_path, before, heads)
        loss, parts, wanted = want
        assert len(rows) == 1
        assert rows[0]["loss"] == pytest.approx(loss, rel=5e-6)
        if which != "sft":
            for name in PARTS:
                assert rows[0][name] == pytest.approx(parts[name], rel=5e-6, abs=1e-6), name
        assert set(slopes) == set(wanted)
        largest = max(slope.abs().max() for slope in wanted.values())
        for name, slope in slopes.items():
            assert (slope - wanted[name]).abs().max() <= 1e-5 * largest, name
