"""Training: the loss is the loss, a resumed run is the undisturbed run, what is saved loads plainly."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sft.data.chat_template import template_text
from sft.losses.cross_entropy import summed_loss
from sft.training.run import train
from synth.config.train import Lora, Student, Train
from synth.core.errors import MissingPackage, UserError
from synth.core.record import Message, Record, Task
from tests.helpers import forked_python


def records(n=24):
    return [
        Record(f"r{i}", Task(f"t{i}", f"{i} + {i % 3}?"), [], "so " * (i % 5) + f"{i} + {i % 3} = {i + i % 3}", f"\\boxed{{{i + i % 3}}}")
        for i in range(n)
    ]  # fmt: skip


def prompt(task):
    return [Message(role="user", content=task.question)]


def losses(folder):
    return [
        (row["step"], row["loss"])
        for row in map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    ]


SETTINGS = dict(epochs=2, batch_size=4, learning_rate=1e-2, save_steps=3)


@pytest.mark.parametrize("package", ["trl", "accelerate", "transformers"])
def test_a_missing_package_is_named_before_anything_imports_it(tmp_path, monkeypatch, package):
    for name in [name for name in sys.modules if name.startswith("sft.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    from sft.training import run

    with pytest.raises(MissingPackage, match=f"package {package}"):
        run.train(records(), prompt, Student(model="x"), Train(), tmp_path, 0)


@given(
    st.integers(1, 4),
    st.integers(2, 9),
    st.integers(2, 8),
    st.integers(3, 40),
    st.integers(0, 2**31),
    st.integers(64, 4096),
)
def test_the_loss_and_its_gradient_are_those_of_a_dense_float64_reference(
    batch, length, width, vocabulary, seed, chunk
):
    torch.manual_seed(seed)
    hidden = torch.randn(batch, length, width, requires_grad=True)
    head = torch.nn.Linear(width, vocabulary, bias=False)
    labels = torch.randint(0, vocabulary, (batch, length))
    labels[torch.rand(batch, length) < 0.5] = -100
    loss = summed_loss(hidden, labels, head, chunk_bytes=chunk)

    exact = hidden.detach().double().requires_grad_()
    weight = head.weight.detach().double().requires_grad_()
    log = torch.log_softmax(exact[:, :-1] @ weight.T, -1)
    targets = labels[:, 1:]
    reference = torch.zeros((), dtype=torch.float64)
    for b in range(batch):
        for t in range(length - 1):
            if targets[b, t] != -100:
                reference = reference - log[b, t, targets[b, t]]
    assert math.isclose(loss.item(), reference.item(), rel_tol=1e-5, abs_tol=1e-5)
    if (targets != -100).any():
        loss.backward()
        reference.backward()
        assert torch.allclose(hidden.grad.double(), exact.grad, atol=1e-5)
        assert torch.allclose(head.weight.grad.double(), weight.grad, atol=1e-5)


@pytest.mark.slow
def test_a_student_learns_is_saved_and_loads_plainly(checkpoint, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    seen = []
    result = train(
        records(),
        prompt,
        Student(model=str(checkpoint)),
        Train(**SETTINGS),
        tmp_path,
        0,
        seen.append,
    )
    curve = losses(tmp_path)
    assert result.steps == 12 == len(curve) == len(seen)
    assert curve[-1][1] < 0.8 * curve[0][1]
    assert result.examples == 24
    assert 0 < result.loss_tokens < result.tokens
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    assert tokenizer.chat_template == template_text("chatml")
    ends = model.generation_config.eos_token_id
    assert tokenizer.eos_token_id in (ends if isinstance(ends, list) else [ends])
    before = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert not torch.equal(
        model.get_input_embeddings().weight, before.get_input_embeddings().weight
    )
    again = train(records(), prompt, Student(model=str(checkpoint)), Train(**SETTINGS), tmp_path, 0)
    assert again == result, "a finished training is not done twice"


@pytest.mark.slow
def test_lora_is_merged_and_the_adapter_kept(checkpoint, tmp_path):
    from transformers import AutoModelForCausalLM

    config = Train(max_steps=3, batch_size=4, learning_rate=1e-2, lora=Lora(r=4, alpha=8))
    train(records(), prompt, Student(model=str(checkpoint)), config, tmp_path, 0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert list(tmp_path.rglob("adapter_model.safetensors"))


def test_lora_on_a_module_that_is_not_there_is_one_message(checkpoint, tmp_path):
    config = Train(max_steps=1, lora=Lora(target_modules=["q_prj"]))
    with pytest.raises(UserError, match="q_prj"):
        train(records(), prompt, Student(model=str(checkpoint)), config, tmp_path, 0)


@pytest.mark.slow
def test_gradient_accumulation_gives_the_same_steps_as_one_large_batch(checkpoint, tmp_path):
    same = {"max_steps": 4, "learning_rate": 1e-3, "scheduler": "constant", "warmup_ratio": 0}
    even = records(16)
    for r in even:  # of one length, so that both ways see the same examples in a step
        r.reasoning = f"{r.task.question[:1]} is it"
    train(
        even,
        prompt,
        Student(model=str(checkpoint)),
        Train(batch_size=4, gradient_accumulation=4, **same),
        tmp_path / "a",
        0,
    )
    train(
        even,
        prompt,
        Student(model=str(checkpoint)),
        Train(batch_size=16, **same),
        tmp_path / "b",
        0,
    )
    for (_, one), (_, other) in zip(losses(tmp_path / "a"), losses(tmp_path / "b"), strict=True):
        assert math.isclose(one, other, rel_tol=1e-3)


def test_a_loss_that_is_no_number_stops_the_training(checkpoint, tmp_path):
    from transformers import AutoModelForCausalLM

    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    model.save_pretrained(broken)
    with pytest.raises(UserError, match=r"step|nan|number"):
        train(records(), prompt, Student(model=str(broken)), Train(**SETTINGS), tmp_path / "run", 0)
    assert not (tmp_path / "run" / "student").exists()


# With pauses: the kills are to come in its midst on a fast machine too.
SCRIPT = """
import json, sys, time
sys.path.insert(0, {here!r})
from pathlib import Path
from tests.sft.training.test_training import SETTINGS, prompt, records
from sft.training.run import train
from synth.config.train import Student, Train
train(records(), prompt, Student(model={model!r}), Train(**SETTINGS), Path({folder!r}), 0,
      lambda row: time.sleep(0.1))
"""


@pytest.mark.slow
def test_killed_twice_and_resumed_it_is_the_undisturbed_run(checkpoint, tmp_path):
    from pathlib import Path

    train(
        records(), prompt, Student(model=str(checkpoint)), Train(**SETTINGS), tmp_path / "whole", 0
    )
    folder = tmp_path / "killed"
    script = SCRIPT.format(
        here=str(Path(__file__).parents[3]), model=str(checkpoint), folder=str(folder)
    )
    for lines in (4, 8):
        process = forked_python.Popen(["-c", script], stderr=subprocess.DEVNULL)
        log = folder / "log.jsonl"
        deadline = time.monotonic() + 120
        while not (log.is_file() and len(log.read_text().splitlines()) >= lines):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "student").exists()
    # A checkpoint that a kill left half-written does not count.
    half = folder / "checkpoints" / "checkpoint-11"
    half.mkdir(parents=True)
    (half / "trainer_state.json").write_text("{")
    assert forked_python.run(["-c", script]).returncode == 0
    assert losses(folder) == losses(tmp_path / "whole")
    from safetensors.torch import load_file

    first, second = (
        load_file(p / "student" / "model.safetensors") for p in (folder, tmp_path / "whole")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
