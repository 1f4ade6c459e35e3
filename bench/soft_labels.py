"""What soft labels cost a training step beside plain text: CPU time of one thread, and peak memory.

    python bench/soft_labels.py

Steps are what the trainer does: examples and stored labels read, loss, backward pass, AdamW. All ways take
the same batch in turn. The goal of an online teacher is a step of `sft` and the teacher's forward pass.
"""

import json
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from _shared.training import chat, records, save_models
from common import machine, measured, peak_mb, table, versions

BATCHES, SIZE, WIDE_SIZE = 6, 4, 16
SFT, STORED, ONLINE = "sft", "soft_labels, stored k = 64", "soft_labels, teacher in memory"


def setting(folder, shape, count):
    """So many examples, and stored labels of them by a random teacher."""
    from sft.data.chat_template import select_template, set_chat_template
    from sft.data.dataset import open_examples, write_examples
    from sft.labels.labeler import Wanted, label
    from sft.labels.transformers import Reader
    from synth.core.models import load_model, load_tokenizer

    save_models(folder, shape, ["student", "teacher"])
    tokenizer = load_tokenizer(str(folder / "student"))
    set_chat_template(tokenizer, select_template(tokenizer))
    write_examples(tokenizer, records(count), chat, None, folder / "tokens.arrow")
    examples = open_examples(folder / "tokens.arrow")
    reader = Reader(load_model(str(folder / "teacher")), Wanted(64, (2.0,), None))
    label(reader, examples, folder / "labels", "teacher")


class Way:
    """One way to train: a student of its own, and its parts timed."""

    def __init__(self, name, folder, size):
        import torch

        from sft.data.dataset import open_examples
        from sft.data.sampler import BatchSampler
        from sft.labels.store import LabelStore
        from sft.losses.objective import DistillationLoss
        from sft.training.collator import BatchDataset
        from sft.training.teachers import Teachers
        from synth.config.train import Train
        from synth.core.models import load_model

        teachers = {"teacher": {"model": "teacher"}}
        more = {} if name == SFT else {"method": "soft_labels", "teachers": teachers}
        config = Train(batch_size=size, epochs=1, **more)
        examples = open_examples(folder / "tokens.arrow")
        self.model = load_model(str(folder / "student")).train()
        loaded = {}
        if name == ONLINE:
            loaded = {"teacher": load_model(str(folder / "teacher")).eval().requires_grad_(False)}
        labels = {"teacher": LabelStore(folder / "labels")} if name == STORED else {}
        self.objective = DistillationLoss(config, self.model, loaded)
        self.groups = BatchDataset(
            examples, BatchSampler(examples, config, 0), "padded", 0, Teachers(labels=labels), 2.0
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def step(self, number):
        """CPU seconds of the parts of a step."""
        from sft.losses.objective import LossInputs
        from sft.training.collator import split_inputs

        ticks = [time.process_time()]
        inputs, rest = split_inputs(self.groups[number])
        labels = inputs.pop("labels")
        count = int((labels[:, 1:] != -100).sum())
        ticks.append(time.process_time())
        found = self.objective(self.model, inputs, LossInputs(labels, rest.get("soft", [])))
        ticks.append(time.process_time())
        (found["loss"] / count).backward()
        ticks.append(time.process_time())
        self.optimizer.step()
        self.optimizer.zero_grad()
        ticks.append(time.process_time())
        return [b - a for a, b in pairwise(ticks)]

    def forward(self, number):
        """CPU seconds of the teacher's forward pass alone, logits where a token carries loss."""
        import torch

        from sft.training.collator import split_inputs

        inputs, _ = split_inputs(self.groups[number])
        where = inputs.pop("labels")[:, 1:] != -100
        began = time.process_time()
        with torch.no_grad():
            states, head = self.objective._last(self.objective.teachers["teacher"], inputs)
            head(states[:, :-1][where])
        return time.process_time() - began


def speed(folder):
    setting(folder, "smollm2", BATCHES * SIZE)
    ways = {name: Way(name, folder, SIZE) for name in (SFT, STORED, ONLINE)}
    spent = {name: [] for name in ways}
    alone = []
    for number in range(BATCHES):
        for name, way in ways.items():
            spent[name].append(way.step(number))
        alone.append(ways[ONLINE].forward(number))
    whole = {name: [sum(parts) for parts in steps[1:]] for name, steps in spent.items()}
    whole["sft step + teacher's forward pass"] = [
        a + b for a, b in zip(whole[SFT], alone[1:], strict=True)
    ]
    tokens = [ways[SFT].groups[number]["tokens"] for number in range(1, BATCHES)]
    rows = []
    for name, seconds in whole.items():
        rate = statistics.median(n / s for n, s in zip(tokens, seconds, strict=True))
        ratio = statistics.median(a / b for a, b in zip(whole[SFT], seconds, strict=True))
        parts = ["" for _ in range(4)]
        if name in spent:
            parts = [
                f"{statistics.median(p[i] / sum(p) for p in spent[name][1:]):.1%}" for i in range(4)
            ]
        rows.append((name, f"{rate:.0f}", f"{ratio:.2f}", *parts))
    table(
        ["", "tokens/s of CPU", "ratio", "of it data and labels", "forward and loss", "backward", "AdamW"],
        rows,
    )  # fmt: skip
    both = whole["sft step + teacher's forward pass"]
    over = statistics.median(a / b for a, b in zip(whole[ONLINE], both, strict=True))
    print(f"Teacher in memory: {over:.2f} times a step of sft and the teacher's forward pass.\n")


def memory(folder):
    setting(folder, "qwen2", 2 * WIDE_SIZE)
    found = {name: measured(__file__, f"{folder}|{name}")["mb"] for name in (SFT, STORED, ONLINE)}
    weights = (folder / "teacher" / "model.safetensors").stat().st_size / 2**20
    rows = []
    for name, mb in found.items():
        own = mb - (weights if name == ONLINE else 0)
        rows.append((name, mb, f"{mb / found[SFT]:.2f}", f"{own / found[SFT]:.2f}"))
    table(["", "peak MB", "ratio", "ratio without the teacher's weights"], rows)


def main():
    import torch

    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--one"]:
        folder, name = sys.argv[2].split("|")
        way = Way(name, Path(folder), WIDE_SIZE)
        for number in range(2):
            way.step(number)
        print(json.dumps({"mb": peak_mb()}))
        return
    print(f"float32, one thread; {machine()}; {versions('torch', 'transformers')}\n")
    with tempfile.TemporaryDirectory() as place:
        print(
            f"Random Llama of SmolLM2's shape, 6 layers, batches of {SIZE} traces, medians of {BATCHES - 1}:\n"
        )
        speed(Path(place))
    with tempfile.TemporaryDirectory() as place:
        print(
            f"Random Qwen2, vocabulary 151,936, 4 layers of width 256, batches of {WIDE_SIZE} traces:\n"
        )
        memory(Path(place))


if __name__ == "__main__":
    main()
