"""Two processes on the CPU take the very steps of one, write each thing once, and end together."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from sft.training.distributed import PadToWorldSize, empty_like
from synth.core.errors import UserError
from tests.helpers.training import distributed_runs as making

HERE = Path(__file__).parent
CONFIGS = HERE.parents[2] / "configs" / "accelerate"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}
for _name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
    ENVIRONMENT.pop(_name, None)


def launch(config, *command):
    """`accelerate launch` of two processes."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    return subprocess.Popen(
        [*launcher, "--config_file", str(CONFIGS / config), *map(str, command)],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ended(process, seconds=400):
    """Its exit status and what it printed."""
    try:
        text, _ = process.communicate(timeout=seconds)
    finally:
        kill(process)
    return process.returncode, text


def kill(process):
    """SIGKILL for a launcher and what it started, each in a session of its own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait()


@pytest.fixture(scope="module")
def models(smollm2, tmp_path_factory):
    """A student and a wider, deeper teacher with random weights, and the teacher's stored labels."""
    return making.models(smollm2, tmp_path_factory.mktemp("models"))


# --- what one process already shows ---------------------------------------------------------------


def test_groups_that_do_not_come_out_even_are_filled_with_silent_ones():
    labels = torch.tensor([[-100, 5, 6]])
    soft = [[torch.ones(2, 3), torch.ones(2, 3), torch.ones(2)]]
    batch = {
        "input_ids": labels.clamp(min=1), "labels": labels, "tokens": 3, "records": ["a"], "soft": soft,
        "weights": torch.ones(2, 2),
    }  # fmt: skip
    even = PadToWorldSize([batch] * 5, 3)
    assert len(even) == 6
    assert all(even[i] is batch for i in range(5))
    last = even[5]
    assert (last["labels"] == -100).all()
    assert last["tokens"] == 0 and last["records"] == []
    assert [len(part) for part in last["soft"][0]] == [0, 0, 0] and len(last["weights"]) == 0
    assert torch.equal(last["input_ids"], batch["input_ids"])
    assert len(PadToWorldSize([batch] * 6, 3)) == 6 and len(PadToWorldSize([batch] * 5, 1)) == 5


def test_a_silent_batch_needs_no_labels_of_teachers():
    batch = {"labels": torch.tensor([[1, 2]]), "tokens": 2, "records": ["a"]}
    assert "soft" not in empty_like(batch) and "weights" not in empty_like(batch)


def test_several_gpus_without_a_launcher_are_one_message(models, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match="accelerate launch"):
        making.run("sft", "padded", models, tmp_path, 1)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_config_as_it_is_meant(path, monkeypatch):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    config = load_config_from_file(str(path))
    kinds = {"cpu_two": "MULTI_GPU", "ddp": "MULTI_GPU", "fsdp2": "FSDP"}
    assert config.distributed_type == DistributedType(kinds.get(path.stem, "DEEPSPEED"))
    assert config.num_processes == 2
    assert config.mixed_precision == "no"  # `train.bf16` decides
    if path.stem == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if path.stem.startswith("deepspeed"):
        assert config.deepspeed_config["zero_stage"] == int(path.stem[-1])


def test_every_config_for_accelerate_is_there():
    names = {path.stem for path in CONFIGS.glob("*.yaml")}
    assert names == {"cpu_two", "ddp", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"}


# --- the steps of one -----------------------------------------------------------------------------


def same_steps(one, two):
    """The lines of the log and the student, with equal tokens and losses and weights near enough."""
    lines = list(zip(making.rows(one), making.rows(two), strict=True))
    assert len(lines) >= 4
    for mine, theirs in lines:
        for name in ("step", "epoch", "tokens", "loss_tokens"):
            assert mine[name] == theirs[name], name
        for name in ("loss", "cross_entropy", "divergence", "hidden_states"):
            if name in mine:
                assert theirs[name] == pytest.approx(mine[name], rel=1e-5, abs=2e-6), name
    first, second = (load_file(p / "student" / "model.safetensors") for p in (one, two))
    assert first.keys() == second.keys()
    for name in first:
        assert torch.allclose(first[name], second[name], rtol=0, atol=1e-5), name


def trained(config, models, folder, jobs):
    """Has two processes do the jobs (method, layout, more); gives what they printed."""
    folder.mkdir()
    made = [
        {
            "method": method, "layout": layout, "folder": str(folder / f"{method}-{layout}"),
            "models": str(models), **more,
        }
        for method, layout, more in jobs
    ]  # fmt: skip
    path = folder / "jobs.json"
    path.write_text(json.dumps(made))
    status, text = ended(
        launch(config, HERE.parents[1] / "helpers" / "training" / "train_in_processes.py", path),
        500,
    )
    assert status == 0, text[-8000:]
    return text


def compare(models, folder, pairs):
    for method, layout in pairs:
        making.run(method, layout, models, folder / "one" / f"{method}-{layout}", 1)
        same_steps(*(folder / who / f"{method}-{layout}" for who in ("one", "two")))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_take_the_steps_of_one(models, tmp_path):
    """Every method in every layout; the last group falls to one of them alone."""
    methods = [method for method in making.METHODS if method != "adapters"]  # see STOPPED
    pairs = [(method, layout) for method in methods for layout in making.LAYOUTS]
    trained("cpu_two.yaml", models, tmp_path / "two", [(*pair, {}) for pair in pairs])
    compare(models, tmp_path, pairs)


STOPPED = [("sft", "packed"), ("hidden_states", "padded"), ("adapters", "padding_free")]


def stopped_and_resumed(config, models, folder):
    """Stops each training where the second process alone is asked to, and goes on with it."""
    jobs = [job for pair in STOPPED for job in ((*pair, {"then": ["stops", 2]}), (*pair, {}))]
    text = trained(config, models, folder / "two", jobs)
    assert text.count("training stopped after step 3") == 2 * len(STOPPED), "both agree"
    compare(models, folder, STOPPED)
    return text


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_stop_where_one_is_asked_to_and_go_on_to_the_same_student(models, tmp_path):
    stopped_and_resumed("cpu_two.yaml", models, tmp_path)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sharded_weights_take_the_steps_of_one_and_resume(models, tmp_path):
    """FSDP2 over gloo; the student is saved whole, without its projections."""
    assert "DistributedType.FSDP" in stopped_and_resumed("fsdp2.yaml", models, tmp_path)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_takes_the_steps_of_one_and_resumes(stage, models, tmp_path):
    pytest.importorskip("deepspeed")
    config = f"deepspeed_zero{stage}.yaml"
    assert "DistributedType.DEEPSPEED" in stopped_and_resumed(config, models, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_error_in_one_process_ends_both(models, tmp_path):
    job = {
        "method": "sft", "layout": "padded", "folder": str(tmp_path / "run"), "models": str(models),
        "then": ["fails", 2],
    }  # fmt: skip
    (tmp_path / "jobs.json").write_text(json.dumps([job]))
    process = launch(
        "cpu_two.yaml",
        HERE.parents[1] / "helpers" / "training" / "train_in_processes.py",
        tmp_path / "jobs.json",
    )
    status, text = ended(process)
    assert status != 0
    assert "the second process fails" in text
    assert not (tmp_path / "run" / "student").exists()


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def recipe(models, tmp_path):
    """A config whose traces are filtered already, so that `train` is the next stage."""
    traces = tmp_path / "traces.jsonl"
    lines = [
        {"question": r.task.question, "reasoning": r.reasoning, "answer": r.answer}
        for r in making.records()
    ]
    traces.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = tmp_path / "two.yaml"
    path.write_text(
        f"""
name: two
runs: {tmp_path / "runs"}
seed: 0
traces: [{{source: file, path: {traces}}}]
filters: [exact_dedup]
label: {{k: 16}}
student: {{model: {models / "student"}, prompt: {{template: boxed.en}}}}
train:
  method: soft_labels
  teachers: {{big: {{model: {models / "teacher"}}}}}
  soft_labels: {{alpha: 0.5, temperature: 2}}
  epochs: 24
  batch_size: 4
  learning_rate: 1.0e-3
  save_steps: 3
"""
    )
    status, text = ended(distill("filter", path))
    assert status == 0, text[-8000:]
    return path


def distill(*command):
    return subprocess.Popen(
        [sys.executable, "-m", "synth", *map(str, command)],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_started_again_the_command_is_the_undisturbed_run(recipe, tmp_path):
    """kill -9 of launcher and both processes; each thing is written once; labels are made once."""
    run = tmp_path / "runs" / "two"
    command = ("-m", "synth", "train", recipe)
    process = launch("cpu_two.yaml", *command)
    deadline = time.monotonic() + 400
    while sum(len(p.read_text().splitlines()) for p in run.glob("train.*/log.jsonl")) < 5:
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill(process)
    status, text = ended(launch("cpu_two.yaml", *command))
    assert status == 0, text[-8000:]
    assert text.count("last loss") == 1, "one process speaks"
    train_folder = run / "train"
    rows = making.rows(train_folder)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)), "each step once"
    assert json.loads((train_folder / "manifest.json").read_text())["steps"] == len(rows)
    assert not list(train_folder.rglob("*.partial"))
    one = ["train.gradient_accumulation=2", f"runs={tmp_path / 'alone'}"]
    for stage in ("filter", "train"):
        status, text = ended(distill(stage, recipe, *one))
        assert status == 0, text[-8000:]
    same_steps(tmp_path / "alone" / "two" / "train", train_folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_other_stages_are_refused_in_several_processes(recipe):
    status, text = ended(launch("cpu_two.yaml", "-m", "synth", "filter", recipe, "seed=1"))
    assert status != 0
    assert "without the launcher" in text
