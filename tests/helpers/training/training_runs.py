"""What tests of training share: records, tiny models with a small tokenizer, one training step."""

import json

from sft.data.chat_template import select_template, set_chat_template
from sft.data.dataset import open_examples, write_examples
from sft.labels.labeler import Wanted, label
from sft.labels.transformers import Reader
from sft.training.build import build_trainer
from sft.training.checkpoints import StepLog
from sft.training.monitor import TrainingMonitor
from sft.training.run import train
from synth.config.train import Student, Train
from synth.core.models import load_model, load_tokenizer
from synth.core.record import Generation, Message, Record, Task
from tests.helpers.training.on_policy_runs import tiny, trained_bpe


def records(n=8, writers=("a",), answer="\\boxed"):
    made = []
    for i in range(n):
        task = Task(f"t{i}", f"{i} + {i % 3}?", source="sums")
        reasoning = "So " * (i % 4 + 1) + f"{i} and {i % 3} make {i + i % 3}"
        author = writers[i % len(writers)]
        writer = Generation(author, "m", "p", "h", {}, 0, "stop", None, None, None, 0.0, "")
        made.append(
            Record(f"r{i}", task, [], reasoning, f"{answer}{{{i + i % 3}}}", generation=writer)
        )
    return made


def prompt(task):
    return [Message(role="user", content=task.question)]


def save_tiny(folder, seed=0, **size):
    """A tiny Llama with a tokenizer of 600 tokens."""
    tokenizer = trained_bpe(600)
    tiny(tokenizer, None, seed, **size).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def run(model, folder, data=None, student=None, labels=None, seed=3, on_progress=None, **config):
    config = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, **config}
    start = Student(model=str(model), **(student or {}))
    data = records() if data is None else data
    return train(data, prompt, start, Train(**config), folder, seed, on_progress, labels)


def examples_in(model, folder, data):
    """The data as the student learns it."""
    tokenizer = load_tokenizer(str(model))
    set_chat_template(tokenizer, select_template(tokenizer))
    write_examples(tokenizer, data, prompt, None, folder / "tokens.arrow")
    return tokenizer, open_examples(folder / "tokens.arrow")


def store_labels(teachers, examples, folder, k=16, temperatures=(2.0,), only=None, vocabulary=None):
    """A label set a teacher, as the stage `label` writes them."""
    for name, model in teachers.items():
        reader = Reader(load_model(str(model)), Wanted(k, temperatures, vocabulary))
        label(reader, examples, folder / name, name, (only or {}).get(name))
    return folder


def one_step(model, folder, data, config, labels=None):
    """The gradients of one optimizer step, before they are clipped or used, and its log line."""
    from transformers import TrainerCallback

    tokenizer, examples = examples_in(model, folder, data)
    watch = TrainingMonitor(StepLog(folder / "log.jsonl"))
    trainer = build_trainer(
        tokenizer, examples, Student(model=str(model)), config, folder, 0, watch, labels, None
    )
    kept, hidden = [], watch.hidden

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **_):
            named = model.named_parameters()
            kept.append({n: p.grad.clone() for n, p in named if p.grad is not None})

    trainer.add_callback(Keep())
    before = [p.detach().double() for p in hidden.projections or ()] if hidden else []
    trainer.train()
    return kept, watch.log.rows(), hidden, before


def curve(folder):
    """The log without what a clock says."""
    clock = ("seconds", "tokens_per_second")
    return [{k: v for k, v in row.items() if k not in clock} for row in lines(folder)]


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "student" / "model.safetensors")
