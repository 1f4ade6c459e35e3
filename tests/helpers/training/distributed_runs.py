"""What the tests of several processes share: the trainings, each by name, and what came of them."""

import json

from sft.training.run import train
from synth.config.train import Student, Train
from synth.core.record import Message, Record, Task

SOFT = {"alpha": 0.5, "temperature": 2.0}
STATES = {"layers": "uniform", "mse": 1.0, "cosine": 0.5}
METHODS = {
    "sft": {},
    "soft_labels": {"method": "soft_labels", "soft_labels": SOFT},
    "stored_labels": {"method": "soft_labels", "soft_labels": SOFT},
    "hidden_states": {"method": "hidden_states", "hidden_states": STATES, "soft_labels": SOFT},
    "adapters": {"method": "hidden_states", "hidden_states": STATES, "lora": {"r": 4, "alpha": 8}},
}
LAYOUTS = {
    "padded": {},
    "padding_free": {"layout": "padding_free"},
    "packed": {"layout": "packed", "pack_length": 120, "batch_size": 1},
}


def records(n=19):
    return [
        Record(f"r{i}", Task(f"t{i}", f"{i} + {i % 3}?"), [], "so " * (i % 5) + f"{i} + {i % 3} = {i + i % 3}", f"\\boxed{{{i + i % 3}}}")
        for i in range(n)
    ]  # fmt: skip


def prompt(task):
    return [Message(role="user", content=task.question)]


def config(method, layout, teacher, processes, **more):
    """The same optimizer steps whatever the number of processes, 1 or 2."""
    given = {
        "epochs": 3, "batch_size": 4, "gradient_accumulation": 4 // processes, "learning_rate": 1e-3,
        "save_steps": 2, **METHODS[method], **LAYOUTS[layout], **more,
    }  # fmt: skip
    if method != "sft":
        given["teachers"] = {"big": {"model": str(teacher)}}
    return Train(**given)


def models(tokenizer, folder):
    """A student and a wider, deeper teacher with random weights, and the teacher's stored labels."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from sft.data.chat_template import select_template, set_chat_template
    from sft.data.dataset import open_examples, write_examples
    from sft.labels.labeler import Wanted, label
    from sft.labels.transformers import Reader
    from synth.core.models import load_model, load_tokenizer, weights_identity

    for name, width, layers in (("student", 48, 2), ("teacher", 64, 3)):
        torch.manual_seed(layers)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=96, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    tokenizer = load_tokenizer(str(folder / "student"))
    set_chat_template(tokenizer, select_template(tokenizer))
    (folder / "labels").mkdir()
    tokens = folder / "labels" / "tokens.arrow"
    write_examples(tokenizer, records(), prompt, None, tokens)
    teacher = str(folder / "teacher")
    reader = Reader(load_model(teacher), Wanted(k=16, temperatures=(1.0, 2.0)))
    label(reader, open_examples(tokens), folder / "labels" / "big", weights_identity(teacher))
    return folder


def run(method, layout, models, folder, processes, on_progress=None, **more):
    """Trains as named; gives what `train` does."""
    return train(
        records(),
        prompt,
        Student(model=str(models / "student")),
        config(method, layout, models / "teacher", processes, **more),
        folder,
        0,
        on_progress,
        labels=models / "labels" if method == "stored_labels" else None,
    )


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
