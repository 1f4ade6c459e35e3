"""Intermediate layers in training: a trainer, two processes, a real model."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sft.losses.hidden_states import NAME, HiddenStateLoss, HiddenStates
from sft.training.distributed import save_projections
from tests.helpers.dense_reference import close
from tests.helpers.training.hidden_state_runs import batch, run, tiny


def trainer(folder, steps, lora):
    """transformers' own trainer with this loss alone, as ours calls it."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    student, teacher = tiny(2, 16), tiny(4, 24)
    hidden = HiddenStateLoss(HiddenStates(relations=1.0), student, teacher)
    torch.manual_seed(0)
    wrapped = (
        get_peft_model(student, LoraConfig(r=2, target_modules="all-linear")) if lora else student
    )

    class Learns(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")
            return run(hidden, model, teacher, inputs, labels) / num_items_in_batch

    class Keeps(TrainerCallback):
        def on_save(self, args, state, control, **_):
            save_projections(hidden, folder / f"checkpoint-{state.global_step}", True)

    inputs, labels = batch(8)
    rows = [
        dict(input_ids=ids, attention_mask=mask, labels=wanted)
        for ids, mask, wanted in zip(
            inputs["input_ids"], inputs["attention_mask"], labels, strict=True
        )
    ]
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-2,
        lr_scheduler_type="constant", save_steps=2, use_cpu=True, report_to="none", disable_tqdm=True, seed=3,
    )  # fmt: skip
    made = Learns(model=wrapped, args=arguments, train_dataset=rows, callbacks=[Keeps()])
    hidden.register(made.model)
    return made, hidden


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_projections_are_trained_saved_and_resumed_by_a_trainer(lora, tmp_path):
    whole, learned = trainer(tmp_path / "a", 4, lora)
    start = [matrix.detach().clone() for matrix in learned.projections]
    whole.train()
    assert not any(map(torch.equal, start, learned.projections))
    half, _ = trainer(tmp_path / "b", 2, lora)
    half.train()
    rest, resumed = trainer(tmp_path / "b", 4, lora)
    checkpoint = tmp_path / "b" / "checkpoint-2"
    resumed.load(checkpoint)
    rest.train(resume_from_checkpoint=str(checkpoint))
    for one, other in zip(learned.projections, resumed.projections, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    for (name, one), other in zip(
        whole.model.named_parameters(), rest.model.parameters(), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-6), name


def pair():
    student, teacher = tiny(2, 16), tiny(4, 24)
    hidden = HiddenStateLoss(HiddenStates(relations=1.0), student, teacher)
    hidden.register(student)
    return hidden, student, teacher


def joint_loss(hidden, student, teacher, inputs, labels):
    """With the cross-entropy: DDP waits for a gradient of every weight."""
    with hidden.capture():
        logits = student(**inputs, use_cache=False).logits
        with torch.no_grad():
            teacher(**inputs, use_cache=False)
    hard = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )
    return hard + hidden.loss(labels, inputs["attention_mask"])


TWO_PROCESSES = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tests.helpers.training.hidden_state_runs import batch
from tests.sft.losses.test_hidden_state_training import joint_loss, pair

dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
rank = dist.get_rank()
hidden, student, teacher = pair()
inputs, labels = batch(4)
mine = slice(2 * rank, 2 * rank + 2)
count = int((labels[:, 1:] != -100).sum())
wrapped = DistributedDataParallel(student)
part = {key: value[mine] for key, value in inputs.items()}
# DDP takes the mean over processes, so each gives its sum times their number.
(joint_loss(hidden, wrapped, teacher, part, labels[mine]) * 2 / count).backward()
if rank == 0:
    torch.save({n: p.grad for n, p in student.named_parameters() if p.grad is not None}, sys.argv[3])
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one(tmp_path):
    hidden, student, teacher = pair()
    inputs, labels = batch(4)
    count = int((labels[:, 1:] != -100).sum())
    (joint_loss(hidden, student, teacher, inputs, labels) / count).backward()
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TWO_PROCESSES, str(tmp_path / "meeting")]
    runs = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "grads")], env=environment)
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in runs] == [0, 0]
    grads = torch.load(tmp_path / "grads")
    assert any(NAME in name for name in grads)
    for name, weight in student.named_parameters():
        assert close(weight.grad, grads[name].double()), name


@pytest.mark.slow
def test_half_of_smollm2_learns_its_teachers_states(smollm2_folder):
    from sft.models.layers import take
    from synth.core.models import load_model, load_tokenizer

    teacher = load_model(smollm2_folder, device="cpu")
    tokenizer = load_tokenizer(smollm2_folder)
    torch.manual_seed(0)
    student = take(teacher, 15)
    fresh = type(student)(student.config).eval()
    texts = [
        "The sum of 12 and 30 is 42, since 10 + 30 = 40 and two more make 42.",
        "A triangle with sides 3, 4 and 5 has a right angle between the two shorter ones.",
        "Water boils at a lower temperature on a mountain, where the air presses less.",
    ]
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    inputs = dict(tokenizer(texts, return_tensors="pt", padding=True))
    mask = inputs["attention_mask"]
    labels = inputs["input_ids"].masked_fill(mask == 0, -100)
    count = int((labels[:, 1:] != -100).sum())

    def language_loss(model):
        with torch.no_grad():
            return float(model(**inputs, labels=labels).loss)

    # Every other layer of so deep and narrow a model says nothing until it is trained; its two ends
    # still know the language.
    ends = take(teacher, [*range(1, 9), *range(24, 31)])
    before = {
        name: language_loss(model)
        for name, model in dict(teacher=teacher, ends=ends, even=student, fresh=fresh).items()
    }
    print(before)
    assert all(map(math.isfinite, before.values()))
    assert before["teacher"] < before["ends"] < before["fresh"] - 1

    hidden = HiddenStateLoss(HiddenStates(cosine=1.0, relations=1.0), student, teacher)
    assert hidden.projections is None
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    curve = []
    for _ in range(6):
        loss = run(hidden, student, teacher, inputs, labels) / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    after = language_loss(student.eval())
    print(curve, after)
    assert curve[-1] < 0.6 * curve[0]
    assert after < min(before["even"], before["fresh"]) - 0.5
