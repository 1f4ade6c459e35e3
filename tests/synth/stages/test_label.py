"""The stage `label`: from kept traces to label sets, resumed, refused, and for the right teacher."""

import json
import shutil
import signal
import subprocess
import time

import pytest

from sft.data.dataset import open_examples, write_examples
from sft.labels.store import LabelStore, tokens_hash
from synth.config.run import ChainStep
from synth.config.validate import load_run
from synth.core.dataset import MANIFEST, writing
from synth.core.errors import UserError
from synth.core.models import weights_identity
from synth.core.record import Generation, Record, Task
from synth.core.run_folder import RunFolder
from synth.stages import label as labelling
from synth.stages.context import StageContext
from synth.stages.label import label_inputs, show_estimate
from synth.stages.pipeline import do_stage
from tests.helpers import forked_python


def model(folder, seed):
    """A tiny model whose tokens are bytes, with 64 rows more than it has tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers import models as kinds
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    plain = Tokenizer(kinds.BPE(vocab=letters, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="<|im_end|>", pad_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 64, hidden_size=16 * (seed + 1), intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: model(root / name, seed) for seed, name in enumerate(("student", "big", "small"))}


def traces(n=20, writers=("big",)):
    made = []
    for i in range(n):
        by = Generation(
            writers[i % len(writers)], "m", "t", "h", {}, 0, "stop", 1, 1, None, 0.0, "k"
        )
        made.append(Record(f"r{i}", Task(f"t{i}", f"{i} + {i % 3}?"), [], f"{i} + {i % 3} = " * (1 + i % 5), f"\\boxed{{{i}}}", by))  # fmt: skip
    return made


@pytest.fixture
def start(tmp_path, models, write_config):
    """A run whose filter stage is done, and its config."""

    def made(records=None, teachers=("big",), soft=None, label=None, **student):
        config = {
            "name": "r",
            "runs": str(tmp_path / "runs"),
            "traces": [{"source": "file", "path": "none.jsonl"}],
            "student": {"model": models["student"], "prompt": {"template": "boxed.en"}, **student},
            "train": {
                "method": "soft_labels",
                "soft_labels": soft or {},
                "teachers": {name: {"model": models.get(name, models["big"])} for name in teachers},
            },
            "label": {"k": 8, **(label or {})},
        }
        run, _ = load_run(str(write_config(config)))
        if records is not None or not (run.folder / "filter").exists():
            with writing(run.folder / "filter", ("kept", "rejected")) as (splits, manifest):
                for record in traces() if records is None else records:
                    splits["kept"].write(record)
                manifest["inputs"] = {}
        return run

    return made


def go(run):
    said = []
    do_stage("label", run, said.append)
    return said, RunFolder(run.folder).manifest("label")


def examples(run, tmp_path):
    """The run's traces as training sees them."""
    from sft.data.chat_template import select_template, set_chat_template
    from synth.core.dataset import read_split
    from synth.core.models import load_tokenizer
    from synth.stages.build_student import StudentSetup

    tokenizer = load_tokenizer(run.student.model)
    set_chat_template(tokenizer, select_template(tokenizer, run.student.chat_template))
    records = read_split(run.folder / "filter", "kept")
    write_examples(
        tokenizer, records, StudentSetup(run.student).messages, None, tmp_path / "tokens.arrow"
    )
    return open_examples(tmp_path / "tokens.arrow"), len(tokenizer)


@pytest.mark.slow
def test_every_teacher_labels_every_trace_and_training_can_take_them(start, tmp_path):
    run = start(teachers=("big", "small"))
    said, manifest = go(run)
    data, vocabulary = examples(run, tmp_path)
    for name in ("big", "small"):
        store = LabelStore(run.folder / "label" / name)
        # The 64 rows of padding count for nothing.
        store.check(((i, tokens_hash(data[n])) for n, i in enumerate(data.ids)), vocabulary)
        assert store.temperatures == (1.0, 2.0) and store.manifest["k"] == 8
        one = manifest["teachers"][name]
        assert one["records"] == 20 and one["tokens"] == sum(data.labelled)
        assert one["bytes"] > store.manifest["shards"][0] and one["tokens_per_second"] > 0
    assert any("in all: about" in line for line in said)
    assert not list((run.folder / "label").glob("tokens*"))
    assert go(run)[0] == ["label: done before, nothing changed"]


def test_what_labels_depend_on_is_an_input_and_what_not_is_not(start):
    def inputs(run):
        return label_inputs(run.label, StageContext(run, "label"))

    run = start()
    same = inputs(run)
    assert inputs(start(label={"batch_tokens": 64})) == same
    assert inputs(start(label={"temperatures": [2, 1]})) == same
    others = [
        start(label={"k": 9}),
        start(soft={"temperature": 3}),
        start(label={"temperatures": [1, 2, 4]}),
        start(teachers=("small",)),
        start(chat_template="phi4"),
        start(prompt={"template": "boxed.zh"}),
        start(label={"engine": "vllm", "temperatures": [1]}, soft={"temperature": 1}),
    ]
    assert all(inputs(other) != same for other in others)
    # Which weights the student starts from says nothing; its tokenizer does.
    moved = start(model=run.train.teachers["big"].model)
    assert inputs(moved) == same


@pytest.mark.slow
def test_each_trace_is_labelled_by_the_teacher_that_wrote_it(start, tmp_path):
    soft = {"weights": "producer"}
    run = start(traces(12, ("big", "small", "big")), ("big", "small"), soft)
    manifest = go(run)[1]
    assert [manifest["teachers"][name]["records"] for name in ("big", "small")] == [8, 4]
    data, _ = examples(run, tmp_path)
    LabelStore(run.folder / "label" / "small").get("r1", tokens_hash(data[1]))
    with pytest.raises(UserError, match="no labels of record 'r1'"):
        LabelStore(run.folder / "label" / "big").get("r1", tokens_hash(data[1]))
    with pytest.raises(UserError, match="4 of 12 traces were written by small"):
        go(start(None, ("big",), soft))
    with pytest.raises(UserError, match=r"train\.teachers\.small: wrote none of the 20 kept"):
        go(start(traces(), ("big", "small"), soft))


def test_a_teacher_that_the_chain_trains_is_the_one_that_labels(start, models):
    run = start()
    step = {"student": run.student.model_dump(), "train": {"epochs": 1}}
    run = run.model_copy(update={"chain": {"aid": ChainStep.model_validate(step)}})
    run.train.teachers["big"].model = "trained:aid"
    with pytest.raises(UserError, match="trained:aid: not trained yet"):
        go(run)
    shutil.copytree(models["small"], run.folder / "train-aid" / "student")
    go(run)
    made = LabelStore(run.folder / "label" / "big").manifest["teacher"]
    assert made == weights_identity(models["small"]) != weights_identity(models["big"])


@pytest.mark.slow
def test_an_estimate_labels_nothing_and_loses_nothing(start):
    run = start(teachers=("big", "small"))
    said = []
    show_estimate(run, said.append)
    assert len(said) == 3 and "20 traces" in said[0] and "about" in said[2]
    assert not (run.folder / "label").exists()
    go(run)
    before = sorted((run.folder / "label").rglob("*"))
    show_estimate(start(label={"k": 4}, teachers=("big", "small")), said.append)
    show_estimate(run, said.append)
    assert said[-1] == "label: done before, nothing changed"
    assert sorted((run.folder / "label").rglob("*")) == before
    made = sorted(path.name for path in run.folder.iterdir() if path.name != ".lock")
    assert made == ["filter", "label"]


def test_a_disk_without_room_is_said_before_anything_is_written(start, monkeypatch):
    run = start()
    real = shutil.disk_usage(run.folder)
    monkeypatch.setattr(labelling.shutil, "disk_usage", lambda _: real._replace(free=100))
    with pytest.raises(UserError, match=r"label: about .* are to come, but .* has 100 B free"):
        go(run)
    assert not list((run.folder / "label").rglob("*.bin"))


def test_labels_of_other_traces_or_another_prompt_are_made_again(start):
    first = go(start())[1]
    other = start(traces(21))
    said, second = go(other)
    assert said[0].startswith("label: done again, because of\n  filter: ")
    assert first["content"] != second["content"] and second["teachers"]["big"]["records"] == 21


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": {"engine": "vllm"}}, r"label\.engine: vllm gives .* at temperature 1 alone"),
        ({"label": {"temperatures": [1]}}, r"soft_labels\.temperature is 2 and is not among them"),
        ({"label": {"k": 10**6}}, r"k is 1000000; expected 1 to"),
        ({"teachers": ("../up",)}, r"'\.\./up' cannot name a folder"),
        ({"teachers": ("seconds.json",)}, r"'seconds\.json' cannot name a folder"),
    ],
)
def test_a_mistake_is_one_clear_message(start, change, message):
    with pytest.raises(UserError, match=message):
        go(start(**change))


def test_another_vocabulary_is_refused_with_the_teachers_name(start, models, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(models["big"], other)
    told = json.loads((other / "tokenizer.json").read_text())
    swapped = {"a": "b", "b": "a"}
    told["model"]["vocab"] = {swapped.get(k, k): v for k, v in told["model"]["vocab"].items()}
    (other / "tokenizer.json").write_text(json.dumps(told))
    run = start(teachers=("big",))
    run.train.teachers["big"].model = str(other)
    with pytest.raises(UserError, match=r"train\.teachers\.big: the teacher has another tokenizer"):
        go(run)


def test_training_refuses_labels_of_other_traces_with_one_message(start, tmp_path):
    from sft.data.chat_template import select_template, set_chat_template
    from sft.training.teachers import load_teachers
    from synth.core.models import load_tokenizer

    run = start()
    go(run)
    place, tokenizer = run.folder / "label", load_tokenizer(run.student.model)
    set_chat_template(tokenizer, select_template(tokenizer))
    data, _ = examples(run, tmp_path)
    assert load_teachers(run.train, tokenizer, data, place).labels["big"].manifest["records"] == 20
    other, _ = examples(start(prompt={"template": "boxed.zh"}), tmp_path)
    with pytest.raises(UserError, match="'r0' are of other tokens; another tokenizer, chat"):
        load_teachers(run.train, tokenizer, other, place)
    more, _ = examples(start(traces(21)), tmp_path)
    with pytest.raises(UserError, match="no labels of record 'r20'; is it another data set's"):
        load_teachers(run.train, tokenizer, more, place)
    shard = place / "big" / "labels-00000.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    with pytest.raises(UserError, match=r"labels-00000\.bin: missing or cut"):
        load_teachers(run.train, tokenizer, data, place)
    shard.write_bytes(whole[:-9] + bytes(9))
    with pytest.raises(UserError, match=r"labels-00000\.bin: damaged"):
        load_teachers(run.train, tokenizer, data, place)


@pytest.mark.slow
def test_the_command_line_labels_and_trains(distill, start, models, tmp_path):
    rows = [
        {"id": f"r{i}", "question": f"{i} + 1?", "reasoning": f"{i} + 1 = {i + 1}", "answer": f"\\boxed{{{i + 1}}}"}
        for i in range(12)
    ]  # fmt: skip
    (tmp_path / "none.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = start([])
    shutil.rmtree(run.folder)
    steps = "train.max_steps=2"
    assert "the stage 'filter' is not done" in distill("label", "config.yaml").stderr
    assert distill("filter", "config.yaml").returncode == 0
    told = distill("label", "config.yaml", "--estimate")
    assert told.returncode == 0 and "big: 12 traces" in told.stdout, told.stderr
    assert not (run.folder / "label").exists()
    done = distill("run", "config.yaml", steps)
    assert done.returncode == 0, done.stderr
    labelled, trained = done.stdout.index("label: "), done.stdout.index("train: ")
    assert labelled < trained and (run.folder / "train" / "student").is_dir()
    again = distill("label", "config.yaml", steps)
    assert "done before, nothing changed" in again.stdout


KILLED = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import sft.labels.labeler as label
from synth.config.validate import load_run
from synth.stages.pipeline import do_stage
slow = float(sys.argv[2])
def write(*given, real=label.write_shard):
    real(*given)
    time.sleep(slow)
label.write_shard = write
label.SHARD_TOKENS = 100
label.label.__defaults__ = (*label.label.__defaults__[:-1], 100)
run, _ = load_run(sys.argv[1])
do_stage("label", run, print)
"""


@pytest.mark.slow
def test_a_killed_stage_goes_on_to_the_same_bytes(start, tmp_path):
    run = start()
    place = run.folder / "label"

    def begin(slow):
        return forked_python.Popen(
            ["-c", KILLED, tmp_path / "config.yaml", slow],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def files():
        kept = sorted((place / "big").iterdir())
        return {path.name: path.read_bytes() for path in kept}

    whole = begin(0)
    assert whole.communicate(timeout=120) and not whole.returncode
    wanted = files()
    assert len(wanted) > 8
    shutil.rmtree(place)
    process = begin(0.3)
    deadline = time.monotonic() + 60
    while len(list(run.folder.glob("label.unfinished-*/big/*.bin"))) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (place / MANIFEST).exists()
    shards = run.folder.glob("label.unfinished-*/big/*.bin")
    before = {path.name: path.stat().st_mtime_ns for path in shards}
    last = begin(0)
    said, _ = last.communicate(timeout=120)
    assert "still to do" in said and not last.returncode
    after = {path.name: path.stat().st_mtime_ns for path in (place / "big").iterdir()}
    assert len(before) >= 3 and all(after[name] == when for name, when in before.items())
    assert files() == wanted
