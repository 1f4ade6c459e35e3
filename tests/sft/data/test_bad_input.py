"""Each mistake of a config, its data or its models is one message that says where and what to do."""

import json
import os
import shutil

import pytest
import torch

from sft.labels.store import shard_path
from sft.training.checkpoints import MARKER
from sft.training.guards import memory_errors
from synth.config.distillation import HiddenStates, SoftLabels, TeacherModel
from synth.config.train import Lora, Train
from synth.core.errors import Interrupted, MissingPackage, UserError
from synth.core.models import load_model
from synth.core.record import Verdict
from tests.helpers.training.on_policy_runs import trained_bpe
from tests.helpers.training.training_runs import examples_in, records, run, save_tiny, store_labels


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    other = save_tiny(folder / "other", 2)
    trained_bpe(500).save_pretrained(other)
    return {
        "student": save_tiny(folder / "student"),
        "teacher": save_tiny(folder / "teacher", 1, hidden_size=48),
        "other": other,
    }


def taught(models, name="teacher", **more):
    soft = {"method": "soft_labels", "teachers": {"big": TeacherModel(model=str(models[name]))}}
    return {**soft, "max_steps": 2, **more}


def refused(said, *arguments, **options):
    """One message, a bounded one."""
    with pytest.raises(UserError, match=said) as caught:
        run(*arguments, **options)
    assert len(str(caught.value)) < 2000
    return str(caught.value)


# --- teachers and their labels ---------------------------------------------------------------


def test_tokenizers_that_differ_name_the_method_that_does_without(models, tmp_path):
    said = refused(r"another tokenizer", models["student"], tmp_path, **taught(models, "other"))
    assert "on_policy" in said


@pytest.mark.parametrize("model", ["./gone", "/gone/model", "a/b/c"])
def test_a_teacher_that_is_not_there(models, tmp_path, model):
    teachers = {"big": TeacherModel(model=model)}
    refused(
        "no such file or folder",
        models["student"],
        tmp_path,
        **taught(models, teachers=teachers),
    )


@pytest.fixture
def labels(models, tmp_path):
    _, examples = examples_in(models["student"], tmp_path, records())
    return store_labels({"big": models["teacher"]}, examples, tmp_path / "labels")


def test_labels_of_other_data(models, labels, tmp_path):
    changed = records()
    changed[3].reasoning += " it seems"
    options = {"labels": labels, **taught(models)}
    refused(
        "of record 'r3' are of other tokens", models["student"], tmp_path / "a", changed, **options
    )
    refused("no labels of record 'r8'", models["student"], tmp_path / "b", records(9), **options)
    assert not (tmp_path / "a" / "checkpoints").exists()


@pytest.mark.parametrize("how", ["cut", "gone", "flipped", "unfinished"])
def test_labels_that_are_damaged(models, labels, tmp_path, how):
    shard = shard_path(labels / "big", 0)
    whole = shard.read_bytes()
    if how == "cut":
        shard.write_bytes(whole[:-9])
    elif how == "gone":
        shard.unlink()
    elif how == "flipped":
        shard.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    else:
        (labels / "big" / "manifest.json").unlink()
    said = {"cut": "missing or cut", "gone": "missing or cut", "flipped": "damaged"}
    options = {"labels": labels, **taught(models)}
    refused(said.get(how, "no finished label set"), models["student"], tmp_path / "run", **options)


def test_labels_of_another_temperature(models, labels, tmp_path):
    soft = SoftLabels(temperature=3)
    options = {"labels": labels, **taught(models, soft_labels=soft)}
    refused(
        "were stored for 2;.*label.temperatures", models["student"], tmp_path / "run", **options
    )


def test_a_trace_whose_writer_is_no_teacher(models, tmp_path):
    soft = SoftLabels(weights="producer")
    data = records(writers=("big", "stranger"))
    options = taught(models, soft_labels=soft)
    refused("4 of 8 traces were written by stranger", models["student"], tmp_path, data, **options)


def test_teachers_that_all_count_for_nothing(models, tmp_path):
    nobody = TeacherModel(model=str(models["teacher"]), weight=0)
    options = taught(models, teachers={"a": nobody, "b": nobody})
    refused("train.teachers: the weight of each is 0", models["student"], tmp_path, **options)


# --- the student -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"layers": 9}, "9 layers of 2"),
        ({"layers": [1, 9]}, "no layer 9"),
        ({"chat_template": "r1"}, "no token of this student"),
        ({"chat_template": "/gone.jinja"}, "chat_template"),
    ],
)
def test_a_student_that_cannot_be_made(models, tmp_path, student, said):
    refused(said, models["student"], tmp_path, student=student, max_steps=1)


def test_a_template_without_generation_marks(models, tmp_path):
    template = tmp_path / "mine.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    student = {"chat_template": str(template)}
    refused("generation", models["student"], tmp_path / "run", student=student, max_steps=1)


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (["q_prj"], "no layer 'q_prj'; did you mean 'q_proj'"),
        (["lm_head"], "train.lora.target_modules: .*lm_head"),
        (["input_layernorm"], "train.lora.target_modules: .*not supported"),
        ([], "train.lora.target_modules: "),
    ],
)
def test_adapters_on_what_cannot_have_them(models, tmp_path, modules, said):
    lora = Lora(target_modules=modules)
    refused(said, models["student"], tmp_path, max_steps=1, lora=lora)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"layers": [(1, 7)]}, "the teacher has no layer 7"),
        ({"relations": 1.0, "relation_heads": 7}, "relation_heads: 7 does not divide"),
        ({"mse": 0.0}, "nothing to learn"),
    ],
)
def test_layers_that_cannot_be_learned(models, tmp_path, how, said):
    options = taught(models, method="hidden_states", hidden_states=HiddenStates(**how))
    refused(said, models["student"], tmp_path, **options)


# --- the data --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"layout": "packed", "pack_length": 8}, "8 tokens, but the longest example has"),
        ({"mix": {"sum": 1}}, "no example is from 'sum'; did you mean 'sums'"),
        ({"curriculum": "easy_first"}, "add the filter pass_rate"),
        ({"max_length": 12}, "longer than 12 tokens"),
    ],
)
def test_settings_that_do_not_fit_the_data(models, tmp_path, config, said):
    refused(said, models["student"], tmp_path, **config)


def test_pass_rates_that_are_there_are_found(models, tmp_path):
    data = records()
    for i, record in enumerate(data):
        record.verdicts.append(Verdict("pass_rate", True, score=i / 8))
    run(models["student"], tmp_path, data, max_steps=1, curriculum="easy_first")


def test_a_trace_longer_than_the_window_is_named_not_cut(models, tmp_path):
    data = records()
    data[5].answer = "\\boxed{" + "9" * 100_000 + "}"
    refused("1 of 8 .*\n.*longer than 256 tokens: r5", models["student"], tmp_path, data)


HOSTILE = ["\x00", "\u202e", "<|im_end|>", "</think>", "{{ 7 * 7 }}", "\\frac{" * 500, "\udead", ""]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_trained_on_as_it_is_or_refused(models, tmp_path, text):
    data = records(4)
    for place in ("answer", "reasoning"):
        setattr(data[1], place, text)
    data[2].task.question = text
    try:
        run(models["student"], tmp_path, data, max_steps=1)
    except UserError as error:
        assert "of 4 records cannot be trained on" in str(error)


def test_ids_that_no_file_can_hold_are_no_crash(models, tmp_path):
    data = records(4)
    data[1].id, data[1].task.id, data[1].task.source = "x\ud800", "\udfff", "a\x00\ud800"
    run(models["student"], tmp_path, data, max_steps=1)


# --- numbers that are none -------------------------------------------------------------------


def broken(models, folder, where):
    model = load_model(str(models["student"]))
    with torch.no_grad():
        dict(model.named_parameters())[where].view(-1)[0] = float("nan")
    shutil.copytree(models["student"], folder)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("method", ["sft", "soft_labels", "hidden_states"])
def test_a_student_whose_weights_are_no_numbers(models, tmp_path, method, layout):
    student = broken(models, tmp_path / "broken", "model.norm.weight")
    options = {"max_steps": 2} if method == "sft" else taught(models, method=method)
    refused("the loss became nan in step 1", student, tmp_path / "run", layout=layout, **options)
    batch = json.loads((tmp_path / "run" / "broken-batch.json").read_text())
    assert batch["step"] == 1
    assert set(batch["records"]) <= {record.id for record in records()}
    assert len(batch["input_ids"]) == len(batch["labels"])
    assert not (tmp_path / "run" / "student").exists()


def test_a_teacher_whose_logits_are_no_numbers(models, tmp_path):
    teacher = broken({"student": models["teacher"]}, tmp_path / "broken", "model.norm.weight")
    options = taught({"teacher": teacher})
    refused("the loss became nan in step 1", models["student"], tmp_path / "run", **options)
    assert (tmp_path / "run" / "broken-batch.json").exists()


def test_a_gradient_that_is_no_number_stops_before_it_is_saved(models, tmp_path, monkeypatch):
    """The loss may be a number still: the root of 0 has no slope."""
    import sft.losses.objective

    plain = sft.losses.objective.summed_loss

    def bent(hidden, labels, head):
        return plain(hidden, labels, head) + (hidden * 0).sum().abs().sqrt()

    monkeypatch.setattr(sft.losses.objective, "summed_loss", bent)
    refused(
        "the gradient became nan in step 1", models["student"], tmp_path, max_steps=2, save_steps=1
    )
    assert json.loads((tmp_path / "broken-batch.json").read_text())["step"] == 1
    assert not list((tmp_path / "checkpoints").rglob(MARKER))


# --- the machine -----------------------------------------------------------------------------


@pytest.mark.parametrize("tracker", ["trackio", "wandb", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_named(models, tmp_path, tracker, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    missing = lambda name, *rest: None if name == tracker else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(MissingPackage, match=rf"train.report_to needs the package {tracker}"):
        run(models["student"], tmp_path, report_to=[tracker])


OUT = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
TEACHER = {"teachers": {"t": TeacherModel(model="x")}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "stored", "named", "not_named"),
    [
        ({}, False, ["batch_size", "gradient_checkpointing", "train.lora"], ["pack_length", "label"]),
        ({"layout": "packed"}, False, ["train.pack_length"], []),
        ({"batch_size": 1, "gradient_checkpointing": True}, False, ["max_length"], ["batch_size", "checkp"]),
        ({"lora": Lora()}, False, ["train.lora.quantization: 4bit"], ["adapters"]),
        ({"method": "soft_labels", **TEACHER}, False, ["section label"], []),
        ({"method": "soft_labels", **TEACHER}, True, ["batch_size"], ["section label"]),
        ({"method": "hidden_states", **TEACHER}, False, ["under train.teachers"], ["section label"]),
    ],
)  # fmt: skip
def test_too_little_memory_says_what_to_lower(config, stored, named, not_named):
    with pytest.raises(UserError) as caught, memory_errors(Train(**config), stored):
        raise RuntimeError(OUT)
    said = str(caught.value)
    assert all(name in said for name in named)
    assert not any(name in said for name in not_named)


def test_memory_that_really_does_not_suffice(models, tmp_path):
    """Ten billion layers' worth of embeddings cannot be had anywhere."""
    with pytest.raises(UserError, match="memory does not suffice"), memory_errors(Train()):
        torch.empty(2**60)


def test_a_checkpoint_that_was_cut_is_passed_over(models, tmp_path):
    def stop(row):
        if row["step"] == 5:
            os.kill(os.getpid(), 2)

    config = {"epochs": 4, "batch_size": 4, "save_steps": 2, "keep_checkpoints": 9}
    with pytest.raises(Interrupted):
        run(models["student"], tmp_path, on_progress=stop, **config)
    newest = max((tmp_path / "checkpoints").iterdir(), key=lambda p: int(p.name.split("-")[1]))
    (newest / MARKER).unlink()
    (newest / "model.safetensors").write_bytes(b"cut")
    assert run(models["student"], tmp_path, **config).steps == 8
