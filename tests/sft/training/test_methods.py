"""Every method, from records to a saved student: the step, what is logged, and going on after a kill."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sft.labels.store import LabelStore, tokens_hash
from sft.losses.hidden_states import NAME
from sft.losses.objective import PARTS
from synth.config.distillation import HiddenStates, SoftLabels, TeacherModel
from synth.config.train import Lora, Train
from synth.core.models import load_model
from tests.helpers import dense_reference as reference
from tests.helpers import forked_python
from tests.helpers.training.training_runs import (
    curve,
    examples_in,
    lines,
    one_step,
    records,
    run,
    save_tiny,
    store_labels,
    weights,
)


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
    return (
        loss.item(),
        {name: float(torch.as_tensor(sums[name]).detach()) / labelled for name in PARTS},
        slopes,
    )


@pytest.mark.slow
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


def test_a_family_that_says_it_takes_no_number_of_items_is_divided_alike(
    models, tmp_path, monkeypatch
):
    """Gemma 3 with images says so; its batches would then count alike, however many labels."""
    import transformers

    steps = []
    for number, cut in enumerate(CUTS[:2]):
        folder = tmp_path / str(number)
        folder.mkdir()
        said = transformers.LlamaForCausalLM
        monkeypatch.setattr(said, "accepts_loss_kwargs", False, raising=False)
        config = config_of("sft", models, max_grad_norm=0, **cut)
        (slopes,), rows, _, _ = one_step(models["student"], folder, records(), config)
        steps.append((rows[0]["loss"], slopes))
    assert steps[0][0] == pytest.approx(steps[1][0], rel=1e-6)
    for name, slope in steps[0][1].items():
        torch.testing.assert_close(slope, steps[1][1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio"])
def test_each_training_of_a_process_has_a_run_of_its_own_in_a_tracker(models, tmp_path, tracker):
    pytest.importorskip(tracker)
    config = Train(**settings_of("soft_labels", models, max_steps=2, report_to=[tracker]))
    plain = config.model_dump(mode="json", exclude_none=True)
    paths = [str(Path(__file__).parents[3])]
    script = "".join(
        SCRIPT.format(
            paths=paths, labels="", model=str(models["student"]), config=json.dumps(plain),
            folder=str(tmp_path / "runs" / "x" / stage),
        )
        for stage in ("train-first", "train")
    )  # fmt: skip
    # A tracker reads where to write when it is imported.
    where = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env={**os.environ, **where}, check=True, capture_output=True, timeout=200,
    )  # fmt: skip
    if tracker == "tensorboard":
        for stage in ("train-first", "train"):
            (written,) = (tmp_path / "runs" / "x" / stage / "tensorboard").iterdir()
            assert b"train/divergence" in written.read_bytes()
    elif tracker == "wandb":
        written = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
        assert len(written) == 2
        assert all(b"divergence" in path.read_bytes() for path in written)
    else:
        (database,) = tmp_path.glob("trackio/*.db")
        rows = sqlite3.connect(database).execute("select run_name, metrics from metrics").fetchall()
        assert {name for name, _ in rows} == {"x-train-first", "x"}
        assert any(b"divergence" in metrics for _, metrics in rows)


def answer(folder, question):
    """What a saved student says, loaded as any user would."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "student")
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    assert not any("projection" in name or "lora" in name for name, _ in model.named_parameters())
    turns = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")
    said = model.generate(**inputs, max_new_tokens=60, do_sample=False)[0]
    return tokenizer.decode(said[inputs["input_ids"].shape[1] :])


def settings_of(which, models, **more):
    config = config_of(which, models)
    sections = ("method", "teachers", "soft_labels", "hidden_states")
    return {name: getattr(config, name) for name in sections} | more


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "layout", "lora"),
    [
        ("sft", "padding_free", None),
        ("soft_labels", "packed", None),
        ("two_stored", "padded", None),
        ("all_of_it", "packed", Lora(r=8, alpha=32)),
        ("hidden_states", "padded", None),
    ],
)
def test_from_records_to_a_student_that_answers_as_it_was_taught(
    which, layout, lora, models, labels, tmp_path
):
    data = records(2, writers=("a", "b"))
    teachers = settings_of(which, models)
    soft = teachers["soft_labels"]
    if soft:  # teachers of random weights teach nothing: what they say counts for little
        teachers["soft_labels"] = soft.model_copy(update={"alpha": 0.98})
    if teachers["hidden_states"]:
        teachers["hidden_states"] = HIDDEN.model_copy(update={"output": 5.0})
    config = {
        "epochs": 150, "batch_size": 2, "learning_rate": 1e-2, "layout": layout, "lora": lora,
        "logging_steps": 50, "save_steps": 200, **teachers,
    }  # fmt: skip
    stored = labels if METHODS[which][3] else None
    run(models["student"], tmp_path, data, labels=stored, **config)
    for record in data:
        text = answer(tmp_path, record.task.question)
        assert text == f"<think>\n{record.reasoning}\n</think>\n\n{record.answer}<|im_end|>"
    last = lines(tmp_path)[-1]
    assert ("divergence" in last) == (which != "sft")
    if which == "hidden_states":
        assert last["divergence"] == 0
        assert last["hidden_states"] > 0
        total = 5 * last["cross_entropy"] + last["hidden_states"]
        assert last["loss"] == pytest.approx(total, rel=1e-3)
    if which == "two_stored":
        assert last["hidden_states"] == 0
        total = 0.98 * last["cross_entropy"] + 0.02 * last["divergence"]
        assert last["loss"] == pytest.approx(total, rel=1e-3)


def stops_at(step):
    def say(row):
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    return say


LONG = {"epochs": 3, "batch_size": 2, "learning_rate": 5e-3, "save_steps": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "more"),
    [
        ("sft", {"layout": "packed", "mix": {"sums": 1.5}, "batch_size": 1}),
        ("two_stored", {"layout": "packed", "batch_size": 1}),
        ("producer", {"layout": "padding_free", "curriculum": "short_first"}),
        ("hidden_states", {"layout": "padded", "gradient_accumulation": 2}),
        ("all_of_it", {"layout": "packed", "batch_size": 1, "lora": Lora(r=4, dropout=0.2)}),
    ],
)
def test_stopped_and_gone_on_it_is_the_undisturbed_run(which, more, models, labels, tmp_path):
    from synth.core.errors import Interrupted

    stored = labels if METHODS[which][3] else None
    data = records(writers=("a", "b"))
    config = settings_of(which, models, **{**LONG, **more})
    run(models["student"], tmp_path / "whole", data, labels=stored, **config)
    with pytest.raises(Interrupted):
        run(
            models["student"],
            tmp_path / "b",
            data,
            labels=stored,
            on_progress=stops_at(3),
            **config,
        )
    run(models["student"], tmp_path / "b", data, labels=stored, **config)
    assert curve(tmp_path / "b") == curve(tmp_path / "whole")
    one, other = weights(tmp_path / "b"), weights(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in other)


# With pauses: the kill is to come in its midst on a fast machine too.
SCRIPT = """
import json, sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
from tests.helpers.training.training_runs import records, run
labels = Path({labels!r}) if {labels!r} else None
run({model!r}, Path({folder!r}), records(writers=("a", "b")), labels=labels,
    on_progress=lambda row: time.sleep(0.1), **json.loads({config!r}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "more"),
    [
        ("sft", {"layout": "padding_free", "lora": {"r": 4, "dropout": 0.1}}),
        ("two_stored", {"layout": "packed", "batch_size": 1}),
        ("all_of_it", {"layout": "padded"}),
        ("hidden_states", {"layout": "packed", "batch_size": 1, "lora": {"r": 4}}),
    ],
)
def test_killed_and_gone_on_it_is_the_undisturbed_run(which, more, models, labels, tmp_path):
    """Kill -9, and beside it a checkpoint that was half written."""
    stored = labels if METHODS[which][3] else None
    data = records(writers=("a", "b"))
    config = Train(**settings_of(which, models, **{**LONG, "epochs": 6, **more}))
    plain = config.model_dump(mode="json", exclude_none=True)
    run(models["student"], tmp_path / "whole", data, labels=stored, **plain)
    folder = tmp_path / "killed"
    paths = [str(Path(__file__).parents[3])]
    script = SCRIPT.format(
        paths=paths, labels=str(stored or ""), model=str(models["student"]), folder=str(folder),
        config=json.dumps(plain),
    )  # fmt: skip
    said = tmp_path / "said"
    with said.open("w") as stderr:
        process = forked_python.Popen(["-c", script], stderr=stderr)
    log, end = folder / "log.jsonl", time.monotonic() + 200
    while not (log.is_file() and len(log.read_text().splitlines()) >= 6):
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (folder / "student").exists()
    half = folder / "checkpoints" / "checkpoint-999"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"cut")
    run(models["student"], folder, data, labels=stored, **plain)
    assert curve(folder) == curve(tmp_path / "whole")
    one, other = weights(folder), weights(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in other)
