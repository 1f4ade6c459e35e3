"""On a GPU: tokens a second and share of the matrix peak of training, and what soft labels add.

    python bench/gpu/training.py              a random 1.5B student and teacher of Qwen2.5's shape, rows of 8,192
    python bench/gpu/training.py --dry-run    tiny shapes on the CPU: shows that it runs, measures nothing

The student's weights are float32 under bfloat16 autocast, as `train` has them there. Operations are counted as
2 a weight and token forward and 4 backward, the head only where a token carries loss, and causal attention within
each example; what gradient checkpointing computes again is not counted. The peak is that of a large bfloat16 matrix
product on the same device.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import table, versions

FULL = {"vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 32_768}  # fmt: skip
TINY = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
K, LABELLED = 64, 0.75


def build(size, device, dtype, attention):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("qwen2", **size, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.to(device=torch.device(device), dtype=dtype)


def examples(size, row, parts):
    """One packed row of random examples; the last three quarters of each carry loss."""
    import torch

    from sft.data.encoding import IGNORED, Encoded

    length = row // parts
    prompt = round(length * (1 - LABELLED))
    made = []
    for _ in range(parts):
        ids = torch.randint(size["vocab_size"], (length,)).tolist()
        made.append(Encoded(ids, [IGNORED] * prompt + ids[prompt:]))
    return made


def stored(count, vocabulary):
    """Labels of a teacher that nobody asked: k spread ids, falling logits, some mass outside."""
    import torch

    ids = (torch.randint(vocabulary, (count, 1)) + torch.arange(K) * (vocabulary // K)) % vocabulary
    logits = -torch.rand(count, K).cumsum(-1)
    return [ids, logits, (logits / 2).logsumexp(-1) + 0.1]


def operations(model, size, row, parts, labelled):
    """Of a forward and backward pass over one row."""
    embeddings = model.get_input_embeddings().weight.numel()
    body = sum(p.numel() for p in model.parameters()) - embeddings
    heads = 2 * row * (row // parts) * size["hidden_size"] * size["num_hidden_layers"]
    return 6 * body * row + 6 * embeddings * labelled + 3 * heads


def peak(device, side):
    """Operations a second of a bfloat16 matrix product."""
    import torch

    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    return 2 * side**3 / seconds_of(lambda: a @ a, device, 20)


def seconds_of(call, device, rounds):
    import torch

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    spent = []
    for _ in range(rounds + 2):
        wait()
        began = time.perf_counter()
        call()
        wait()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent[2:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    import torch

    from sft.labels.labeler import Wanted
    from sft.labels.transformers import Reader
    from sft.losses.objective import DistillationLoss, LossInputs
    from sft.training.collator import collate
    from synth.config.train import Train

    device = "cpu" if options.dry_run else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("no GPU; --dry-run runs tiny shapes on the CPU")
        sys.exit(2)
    size, row, parts = (TINY, 64, 2) if options.dry_run else (FULL, 8192, 4)
    student = build(size, device, torch.float32, options.attention).train()
    student.gradient_checkpointing_enable({"use_reentrant": False})
    teacher = build(size, device, torch.bfloat16, options.attention).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6, fused=True)
    made = examples(size, row, parts)
    batch = {key: value.to(device) for key, value in collate([made], "packed", 0).items()}
    labels = batch.pop("labels")
    labelled = int((labels[:, 1:] != -100).sum())
    soft = [part.to(device) for part in stored(labelled, size["vocab_size"])]
    taught = Train(method="soft_labels", teachers={"teacher": {"model": "teacher"}})
    ways = {
        "sft": (DistillationLoss(Train(), student), LossInputs(labels)),
        f"soft_labels, stored k = {K}": (DistillationLoss(taught, student), LossInputs(labels, [soft])),
        "soft_labels, teacher in memory": (DistillationLoss(taught, student, {"t": teacher}), LossInputs(labels)),
    }  # fmt: skip
    reader = Reader(teacher, Wanted(K, (2.0,), None))
    top = peak(device, 128 if options.dry_run else 8192)
    work = operations(student, size, row, parts, labelled)
    rows, base = [], None
    for name, (objective, extra) in ways.items():

        def step(objective=objective, extra=extra):
            with torch.autocast(device, torch.bfloat16):
                loss = objective(student, batch, extra)["loss"] / labelled
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = seconds_of(step, device, options.rounds)
        base = base or seconds
        memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if device == "cuda" else ""
        share = f"{work / seconds / top:.1%}" if name == "sft" else ""
        rows.append((name, f"{row / seconds:.0f}", f"{seconds / base - 1:+.1%}", share, memory))
    seconds = seconds_of(lambda: reader.read(made), device, options.rounds)
    rows.append(("label", f"{row / seconds:.0f}", "", "", ""))
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU, dry run: no measurement"
    print(
        f"{where}; matrix product {top / 1e12:.1f} T/s; {sum(p.numel() for p in student.parameters()) / 1e9:.2f}B "
        f"weights, a row of {row} tokens of {parts} examples, {labelled} labelled, {options.attention}; "
        f"{versions('torch', 'transformers')}\n"
    )
    table(["", "tokens/s", "time beside sft", "share of the peak", "peak GiB"], rows)


if __name__ == "__main__":
    main()
