"""What the tests of several processes share: the trainings, each by name, and what came of them."""

import json

from sft.train import train
from synth.record import Message, Record, Task
from synth.training_config import Student, Train

SOFT = {"alpha": 0.5, "temperature": 2.0}
STATES = {"layers": "uniform", "mse": 1.0, "cosine": 0.5}
METHODS = {
    "sft": {},
    "soft_labels": {"method": "soft_labels", "soft_labels": SOFT},
    "stored_labels": {"method": "soft_labels", "soft_labels": SOFT},
    "hidden_states": {"method": "hidden_states", "hidden_states": STATES, "soft_labels": SOFT},
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


def run(method, layout, models, folder, processes, labels=None, **more):
    """Trains as named; gives what `train` does."""
    return train(
        records(),
        prompt,
        Student(model=str(models / "student")),
        config(method, layout, models / "teacher", processes, **more),
        folder,
        0,
        labels=labels if method == "stored_labels" else None,
    )


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
