"""Labelling beside the teacher's forward pass alone, over the same batches.

The forward pass alone is the least that any way of labelling has to do: hidden states, and logits
at the labelled positions alone. Both are timed in one process, batch by batch in turn, so that a
machine that drifts drifts for both; encoding and writing are part of labelling.
"""

import statistics
import tempfile
from pathlib import Path

from common import GGUF, Timer, machine, peak_mb, table, versions

EXAMPLES, BATCH_TOKENS, ROUNDS = 24, 1024, 5


def examples():
    from sft.data.encoding import Encoded
    from synth.core.models import load_tokenizer

    tokenizer = load_tokenizer(GGUF)
    made = []
    for i in range(EXAMPLES):
        prompt = tokenizer(f"What is {i} times {i + 7}? Reason step by step.")["input_ids"]
        sums = "; ".join(f"{i} * {n} = {i * n}" for n in range(3 + i % 9))
        trace = tokenizer(f"<think>\n{sums}\n</think>\n{i * (i + 7)}")["input_ids"]
        made.append(Encoded(prompt + trace, [-100] * len(prompt) + trace))
    return made


def main():
    import torch

    from sft.labels.labeler import Wanted, batches
    from sft.labels.store import tokens_hash, write_shard
    from sft.labels.transformers import Reader
    from synth.core.models import load_model

    model, data = load_model(GGUF, device="cpu"), examples()
    wanted = Wanted(batch_tokens=BATCH_TOKENS)
    reader = Reader(model, wanted)
    groups = [
        [data[i] for i in batch]
        for batch in batches([len(e.input_ids) for e in data], BATCH_TOKENS)
    ]
    head = model.get_output_embeddings()
    rows = reader.chunk_bytes // (4 * reader.vocabulary)

    def forward(batch):
        with torch.inference_mode():
            for states in reader.states(batch).split(rows):
                head(states)

    tokens = sum(len(e.input_ids) for e in data)
    labelled = sum(label != -100 for e in data for label in e.labels[1:])
    padded = sum(max(len(e.input_ids) for e in group) * len(group) for group in groups)
    forward(groups[0])
    peaks = {"forward pass": peak_mb()}
    reader.read(groups[0])
    ratios, alone, ours, writes = [], [], [], []
    for turn in range(ROUNDS):
        seconds, records = {forward: 0.0, reader.read: 0.0}, []
        for group in groups:
            for way in (forward, reader.read) if turn % 2 else (reader.read, forward):
                with Timer() as timer:
                    made = way(group)
                seconds[way] += timer.seconds
                if made:
                    records += zip(group, made, strict=True)
        with tempfile.TemporaryDirectory() as folder, Timer() as timer:
            named = [(str(i), tokens_hash(e), made) for i, (e, made) in enumerate(records)]
            write_shard(Path(folder), 0, named, wanted.temperatures)
        alone.append(tokens / seconds[forward])
        ours.append(tokens / (seconds[reader.read] + timer.seconds))
        ratios.append(ours[-1] / alone[-1])
        writes.append(timer.seconds / (seconds[reader.read] + timer.seconds))
    peaks["label"] = peak_mb()
    print(
        f"SmolLM2-135M in float32, k = {wanted.k}, T = {wanted.temperatures}; {tokens} tokens, "
        f"{labelled} labelled, {padded / tokens - 1:.1%} padding, {ROUNDS} rounds in turn, medians; "
        f"{machine()}; {versions('torch', 'transformers')}\n"
    )
    table(
        ["", "tokens/s", "ratio", "of it encoding and writing", "peak MB"],
        [
            ("forward pass", f"{statistics.median(alone):.0f}", "1.00", "", peaks["forward pass"]),
            (
                "label", f"{statistics.median(ours):.0f}", f"{statistics.median(ratios):.2f}",
                f"{statistics.median(writes):.1%}", peaks["label"],
            ),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
