"""The stage `train`: chains of students, what makes it do its work again, and one message a mistake."""

import json
import shutil

import pytest

from synth.config.run import stages_of
from synth.config.validate import load_run
from synth.core.dataset import writing
from synth.core.errors import ConfigError, UserError
from synth.core.record import Generation, Record, Task
from synth.core.run_folder import RunFolder
from synth.stages.build_student import model_path, resolved_step, written_step
from synth.stages.context import StageContext
from synth.stages.pipeline import do_stage
from synth.stages.train import train_inputs
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
