"""The stage `train`: chains of students, what makes it do its work again, and one message a mistake."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

from synth.config.run import stages_of
from synth.config.validate import load_run
from synth.core.dataset import writing
from synth.core.errors import ConfigError, Interrupted, UserError
from synth.core.record import Generation, Record, Task
from synth.core.run_folder import RunFolder
from synth.stages.build_student import model_path, resolved_step, written_step
from synth.stages.context import StageContext
from synth.stages.pipeline import do_stage
from synth.stages.train import train_inputs
from tests.helpers import forked_python
from tests.helpers.training.on_policy_runs import tiny, trained_bpe


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    made = {}
    for seed, (name, size) in enumerate({"student": 600, "big": 600, "other": 500}.items()):
        tokenizer = trained_bpe(size)
        tiny(tokenizer, None, seed, window=512, num_hidden_layers=3).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        made[name] = str(root / name)
    return made


def traces(n=6):
    made = []
    for i in range(n):
        by = Generation("big", "m", "t", "h", {}, 0, "stop", 1, 1, None, 0.0, "k")
        task = Task(f"t{i}", f"{i} + {i % 3}?", source="sums")
        made.append(Record(f"r{i}", task, [], f"{i} and {i % 3}", f"\\boxed{{{i}}}", by))
    return made


@pytest.fixture
def config(tmp_path, models):
    """A config over traces that are filtered already, to be changed."""
    prompt = {"template": "boxed.en"}
    return {
        "name": "r",
        "runs": str(tmp_path / "runs"),
        "traces": [{"source": "file", "path": "none.jsonl"}],
        "student": {"model": models["student"], "prompt": prompt},
        "train": {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3},
    }


@pytest.fixture
def load(write_config):
    def made(config, records=None):
        run, _ = load_run(str(write_config(config)))
        filtered = run.folder / "filter"
        if records is not None or not filtered.exists():
            shutil.rmtree(filtered, ignore_errors=True)
            with writing(filtered, ("kept", "rejected")) as (splits, manifest):
                for record in traces() if records is None else records:
                    splits["kept"].write(record)
                manifest["inputs"] = {}
        return run

    return made


def chained(config, models):
    """A teacher is trained, then an assistant by it, then the student by that one."""
    prompt = {"template": "boxed.en"}
    plain = config["train"]

    def taught(by):
        return {**plain, "method": "soft_labels", "teachers": {"t": {"model": f"trained:{by}"}}}

    return {
        **config,
        "chain": {
            "big": {"student": {"model": models["big"], "prompt": prompt}, "train": plain},
            "assistant": {
                "student": {"model": "trained:big", "layers": 2, "prompt": prompt},
                "train": taught("big"),
            },
        },
        "train": taught("assistant"),
    }


def do(run, *names):
    said = []
    for name in names:
        do_stage(name, run, said.append)
    return said


@pytest.mark.slow
def test_a_chain_trains_each_model_by_the_one_before(config, models, load):
    run = load(chained(config, models))
    stages = [name for name in stages_of(run) if name.startswith("train")]
    assert stages == ["train-big", "train-assistant", "train"]
    with pytest.raises(UserError, match="trained:assistant: not trained yet; `distill train`"):
        do(run, "train")
    do(run, *stages)
    folder = RunFolder(run.folder)
    assistant = folder.stage("train-assistant") / "student"
    assert json.loads((assistant / "config.json").read_text())["num_hidden_layers"] == 2
    assert model_path(run, "trained:assistant") == str(assistant)
    assert resolved_step(run, written_step(run)).train.teachers["t"].model == str(assistant)
    # Once more is nothing to do; another first model is a new chain.
    assert all("done before" in line for line in do(run, *stages))
    other = chained(config, models)
    other["chain"]["big"]["train"] = {**config["train"], "max_steps": 3}
    said = do(load(other), *stages)
    assert sum("done again" in line for line in said) == 3, said


def weights(run, folder="train"):
    return (run.folder / folder / "student" / "model.safetensors").read_bytes()


def beside(run):
    """The folders of the stage that lie beside its place."""
    return sorted(path.name.rpartition("-")[0] for path in run.folder.glob("train.*"))


def with_train(config, **changes):
    return {**config, "train": {**config["train"], **changes}}


def test_a_finished_student_outlives_a_training_that_fails(config, load):
    run = load(config)
    do(run, "train")
    before = weights(run)
    for change, message in (
        ({"max_length": 9}, "longer than 9 tokens"),
        ({"lora": {"target_modules": ["nope"]}}, "no layer 'nope'"),
    ):
        with pytest.raises(UserError, match=message):
            do(load(with_train(config, **change)), "train")
        assert weights(run) == before
        assert RunFolder(run.folder).need("train")["examples"] == 6
    broken = {**config, "student": {**config["student"], "chat_template": "./nope.jinja"}}
    with pytest.raises(UserError, match="no file"):
        do(load(broken), "train")
    assert do(load(config), "train") == ["train: done before, nothing changed"]
    assert weights(run) == before


def test_what_shows_or_keeps_but_changes_no_weight_trains_nothing_anew(config, load):
    run = load(config)
    do(run, "train")
    for change in (
        {"logging_steps": 5},
        {"save_steps": 1, "keep_checkpoints": 1, "keep_replaced": 3},
        {"report_to": ["tensorboard"]},
        {"gradient_checkpointing": False},
    ):
        assert do(load(with_train(config, **change)), "train") == [
            "train: done before, nothing changed"
        ]
    # The same weights in another place are the same student.
    moved = run.folder / "moved"
    shutil.copytree(config["student"]["model"], moved)
    elsewhere = {**config, "student": {**config["student"], "model": str(moved)}}
    assert do(load(elsewhere), "train") == ["train: done before, nothing changed"]


def test_what_changes_weights_says_which_key_and_how(config, load):
    run = load(config)
    do(run, "train")
    with pytest.raises(UserError):
        do_stage("train", load(with_train(config, max_length=9)), (said := []).append)
    assert said[0] == "train: done again, because of\n  train.max_length: not set -> 9"
    assert f"the student before stays in {run.folder / 'train'}" in said[1]


def test_a_student_that_was_replaced_is_kept_and_taken_back(config, load):
    run = load(config)
    do(run, "train")
    first = weights(run)
    said = do(load(with_train(config, learning_rate=2e-3)), "train")
    second = weights(run)
    assert second != first
    assert beside(run) == ["train.replaced"]
    (kept,) = run.folder.glob("train.replaced-*")
    assert any(f"the one before is kept: {kept} (" in line for line in said)
    assert weights(run, kept.name) == first
    # Its settings once more: it is taken back as it is, and nothing is trained.
    said = do(run, "train")
    assert any(f"trained before with these settings: taken from {kept}" in line for line in said)
    assert weights(run) == first
    assert do(run, "train") == ["train: done before, nothing changed"]
    # One stays by default; none where the config says so.
    do(load(with_train(config, learning_rate=3e-3)), "train")
    assert beside(run) == ["train.replaced"]
    said = do(load(with_train(config, learning_rate=4e-3, keep_replaced=0)), "train")
    assert beside(run) == []
    assert sum(line.startswith("  removed ") for line in said) == 2


def test_checkpoints_of_a_stopped_training_outlive_one_with_other_settings(config, load):
    config = with_train(config, max_steps=60, save_steps=1)
    run = load(config)
    folder = begun_and_stopped(run)
    checkpoint = next(folder.glob("checkpoints/checkpoint-*/whole.json"))
    logged = (folder / "log.jsonl").read_text()
    with pytest.raises(UserError):
        do_stage("train", load(with_train(config, max_length=9)), (said := []).append)
    assert any(f"other settings stays: {folder}" in line for line in said)
    assert checkpoint.exists()
    # A change that changes no weight goes on from it.
    do(load(with_train(config, gradient_checkpointing=True, keep_replaced=2)), "train")
    log = (run.folder / "train" / "log.jsonl").read_text()
    assert log.startswith(logged)
    assert [json.loads(line)["step"] for line in log.splitlines()] == list(range(1, 61))
    assert not folder.exists()


def test_a_training_that_an_earlier_version_was_stopped_in_goes_on(config, load):
    """It worked in the stage's own folder, and noted settings that change no weight."""
    run = load(with_train(config, max_steps=60, save_steps=1))
    folder = begun_and_stopped(run)
    place = run.folder / "train"
    folder.rename(place)
    inputs = json.loads((place / "inputs.json").read_text())
    inputs["train"] |= {"logging_steps": 7, "save_steps": 1, "keep_checkpoints": 0, "report_to": []}
    del inputs["train"]["curriculum"]  # an option that did not exist then has its default
    (place / "inputs.json").write_text(json.dumps(inputs))
    logged = (place / "log.jsonl").read_text()
    do(run, "train")
    assert RunFolder(run.folder).need("train")["steps"] == 60
    assert (place / "log.jsonl").read_text().startswith(logged)
    assert beside(run) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from synth.config.validate import load_run
from synth.stages.pipeline import do_stage
left = int(sys.argv[2])
def rename(path, target, real=Path.rename):
    global left
    if path.name.startswith("train"):  # not what is written on the way
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
    return real(path, target)
Path.rename = rename
do_stage("train", load_run(sys.argv[1])[0], print)
"""


@pytest.mark.slow
def test_killed_while_students_change_places_none_is_lost(config, load, write_config, tmp_path):
    run = load(config)
    do(run, "train")
    first = weights(run)
    again = {**with_train(config, learning_rate=2e-3), "runs": str(tmp_path / "killed")}
    for moment in range(4):
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        shutil.copytree(tmp_path / "runs", tmp_path / "killed")
        path = write_config(again, "killed.yaml")
        done = forked_python.run(["-c", KILLED, path, moment]).returncode
        run = load_run(str(path))[0]
        found = {weights(run, folder.name) for folder in run.folder.glob("train*")}
        assert len(found) == 2 and first in found  # the old student and the new one
        if done == 0:
            break
        assert done == -signal.SIGKILL
        student = RunFolder(run.folder).stage("train") / "student"  # what any command sees
        assert (student / "model.safetensors").read_bytes() in found
        said = do(run, "train")
        assert not any("step" in line for line in said)
        assert {weights(run)} == found - {first}
        assert beside(run) == ["train.replaced"]
    assert moment == 3


@pytest.mark.slow
def test_a_full_disk_costs_no_student(config, load, distill, write_config, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        config = {**config, "runs": str(disk)}
        run = load(config)
        # In processes of their own: what is mapped into this one would keep the disk busy.
        assert distill("train", write_config(config)).returncode == 0
        before = weights(run)
        again = write_config(with_train(config, learning_rate=2e-3))
        free = shutil.disk_usage(disk).free
        for left in (len(before) // 2, 3 * len(before)):  # for no student; for no checkpoint
            (disk / "filler").write_bytes(bytes(free - left))
            done = distill("train", again)
            assert done.returncode == 3, done.stderr
            assert "the disk is full" in done.stderr and "Traceback" not in done.stderr
            assert weights(run) == before
            (disk / "filler").unlink()
        done = distill("train", again)
        assert done.returncode == 0, done.stderr
        assert weights(run) != before
        assert beside(run) == ["train.replaced"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def begun_and_stopped(run):
    """The folder of a training that Ctrl-C stopped after its first steps."""
    pid = os.getpid()

    def watch():
        while not list(run.folder.glob("train.unfinished-*/checkpoints/checkpoint-1/whole.json")):
            time.sleep(0.002)
        os.kill(pid, signal.SIGINT)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(Interrupted):
        do(run, "train")
    watcher.join()
    (folder,) = run.folder.glob("train.unfinished-*")
    return folder


def test_what_a_training_depends_on(config, load):
    def inputs(changed):
        run = load(changed)
        return train_inputs(written_step(run), StageContext(run, "train"))

    before = inputs(config)
    for change in ({"seed": 5}, {"train": {**config["train"], "layout": "packed"}}):
        assert inputs({**config, **change}) != before
    assert inputs(config) == before


def test_it_is_done_once_and_again_where_the_traces_change(config, load):
    run = load(config)
    do(run, "train")
    student = run.folder / "train" / "student" / "model.safetensors"
    before = student.stat().st_mtime_ns
    assert "done before" in do(load(config), "train")[0]
    assert student.stat().st_mtime_ns == before
    # A training of other data leaves nothing of the one before.
    (run.folder / "train" / "left").touch()
    again = load(config, traces(5))
    (run.folder / "train" / "manifest.json").unlink()
    do(again, "train")
    assert not (run.folder / "train" / "left").exists()
    assert json.loads((run.folder / "train" / "manifest.json").read_text())["examples"] == 5


SOFT = {"method": "soft_labels", "teachers": {"big": {"model": "x"}}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"method": "soft_label"}}, "'sft', 'soft_labels'"),
        ({"train": {"method": "soft_labels"}}, "give teachers"),
        ({"train": {"teachers": {"big": {"model": "x"}}}}, "learns from text alone"),
        ({"train": {"soft_labels": {}}}, "soft_labels is set, but method is sft"),
        ({"train": {"pack_length": 99}}, "pack_length works with layout: packed only"),
        ({"train": {**SOFT, "soft_labels": {"alpha": 2}}}, "train.soft_labels.alpha"),
        ({"train": {**SOFT, "soft_labels": {"temprature": 2}}}, "did you mean 'temperature'"),
        ({"train": {**SOFT, "method": "hidden_states"}, "label": {}}, "train.method: soft_labels"),
        ({"train": {}, "label": {}}, "train.method: soft_labels"),
        ({"train": {**SOFT, "teachers": {"t": {"model": "trained:bg"}}}}, "nothing called 'bg'"),
        ({"train": {"mix": {"sums": -1}}}, "greater than or equal to 0"),
        ({"train": {"lora": {"r": 0}}}, "train.lora.r"),
        ({"train": {"report_to": ["wandbb"]}}, "'wandb'"),
    ],
)
def test_a_config_that_cannot_be_meant(config, write_config, change, said):
    with pytest.raises(ConfigError) as caught:
        load_run(str(write_config({**config, **change})))
    assert said in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"layout": "packed", "pack_length": 8, "max_steps": 1}}, "train.pack_length: 8"),
        ({"train": {"method": "soft_labels", "max_steps": 1, "teachers": {"t": "other"}}}, "on_policy"),
    ],
)  # fmt: skip
def test_the_command_line_says_it_in_one_message(
    config, models, load, distill, write_config, change, said
):
    teachers = change["train"].get("teachers", {})
    train = {**change["train"], "teachers": {n: {"model": models[m]} for n, m in teachers.items()}}
    changed = {**config, "train": train}
    load(changed)
    done = distill("train", write_config(changed))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
