"""Soft labels on disk: bytes a token by part, and what their rounding does to the loss.

    .venv/bin/python bench/label_store.py [--tokens 8192] [--data FOLDER]

Beside it stands DistillKit's recommended setting at the same k (its README: ids packed to
ceil(log2 vocabulary) bits, the first 16 log-probabilities in bfloat16, six float32 coefficients of
a curve through the others), written anew from its description. It stores nothing for temperatures
other than 1, so it is given the exact logsumexp of each.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from common import GGUF, Timer, machine, table, versions

K, TEMPERATURES = 64, (1.0, 2.0, 4.0)
EXACT, LONGEST = 16, 512
LAYERS_LEFT_OUT = 2  # of the student, which is the teacher without its last layers


def torch_logits(tokens, data):
    """Teacher's and student's logits of real traces (SmolLM2 reads solutions of MATH problems)."""
    import torch

    from synth.core.models import load_model, load_tokenizer

    tokenizer, model = load_tokenizer(GGUF), load_model(GGUF, device="cpu")
    layers = model.model.layers
    for line in (data / "math-cot-100.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt = tokenizer(row["question"] + "\n")["input_ids"]
        trace = tokenizer(max(row["code"], key=len))["input_ids"][:LONGEST]
        ids, both = torch.tensor([prompt + trace]), []
        for kept in (len(layers), len(layers) - LAYERS_LEFT_OUT):
            model.model.layers = layers[:kept]
            with torch.inference_mode():
                hidden = model.model(ids, use_cache=False).last_hidden_state
                both.append(model.lm_head(hidden[0, len(prompt) - 1 : -1]).double().numpy())
        model.model.layers = layers
        yield both
        tokens -= len(trace)
        if tokens <= 0:
            return


def synthetic_logits(tokens, vocabulary, kinds, seed=0):
    """Zipf-like logits: a general order, one of a few kinds of positions, and noise of each."""
    draw = np.random.default_rng(seed)
    general = -1.2 * np.log(np.arange(1, vocabulary + 1))
    topics = draw.normal(0, 2, (kinds, vocabulary)).astype(np.float32)
    for _ in range(0, tokens, 64):
        z = general + topics[draw.integers(0, kinds, 64)] + draw.normal(0, 1, (64, vocabulary))
        yield z, z + draw.normal(0, 1, z.shape)


def collect(logits):
    """Labels of each example, and the student's log-probabilities of them and of the rest."""
    from sft.labels.codec import TeacherTopK

    labels, students = [], []
    for z, student in logits:
        ids = np.argpartition(-z, K, axis=1)[:, :K]
        ids = np.take_along_axis(ids, np.argsort(-np.take_along_axis(z, ids, 1), 1), 1)
        top = np.take_along_axis(z, ids, 1)
        lse = np.stack([logsumexp(z / t) for t in TEMPERATURES], 1)
        labels.append(
            TeacherTopK(ids.astype(np.int32), top.astype(np.float32), lse.astype(np.float32))
        )
        scored = []
        for t in TEMPERATURES:
            log_q = np.take_along_axis(student / t, ids, 1) - logsumexp(student / t)[:, None]
            scored.append((ids, log_q, np.log1p(-np.minimum(np.exp(log_q).sum(1), 1 - 1e-12))))
        students.append(scored)
    return labels, students


def logsumexp(z):
    top = z.max(1)
    return top + np.log(np.exp(z - top[:, None]).sum(1))


def kl(log_p, log_q, log_q_rest):
    """Forward KL over the top-k and one bucket for the rest, by position."""
    rest = np.maximum(1 - np.exp(log_p).sum(1), 1e-12)
    return (np.exp(log_p) * (log_p - log_q)).sum(1) + rest * (np.log(rest) - log_q_rest)


def losses(labels, students):
    """The loss of each position at each temperature, from labels as they came back."""
    rows = []
    for one, scored in zip(labels, students, strict=True):
        per = []
        for i, (t, (ids, log_q, rest)) in enumerate(zip(TEMPERATURES, scored, strict=True)):
            place = np.argsort(np.argsort(ids, 1), 1)  # tokens in one step may have changed order
            mine = np.take_along_axis(one.top_logits, np.argsort(one.top_ids, 1), 1)
            mine = np.take_along_axis(mine.astype(np.float64), place, 1)
            per.append(kl(mine / t - one.lse[:, i : i + 1].astype(np.float64), log_q, rest))
        rows.append(np.stack(per))
    return np.concatenate(rows, 1)


def distillkit(one):
    """Labels as DistillKit's recommended setting gives them back."""
    import torch

    from sft.labels.codec import TeacherTopK

    log_p = torch.from_numpy(one.top_logits - one.lse[:, :1])
    first = log_p[:, :EXACT].bfloat16().float()
    place = torch.arange(K - EXACT, dtype=torch.float32)
    terms = torch.stack([*(place**i for i in range(5)), place.sqrt()], -1)
    u, s, vh = torch.linalg.svd(terms, full_matrices=False)
    curve = (vh.T @ ((u.T @ log_p[:, EXACT:].T) / s[:, None])).T @ terms.T
    back = torch.cat([first, curve], 1).numpy() + one.lse[:, :1]
    return TeacherTopK(one.top_ids, back, one.lse)


def distillkit_bytes(vocabulary):
    return math.ceil(K * math.ceil(math.log2(vocabulary)) / 8) + 2 * EXACT + 4 * 6


def measure(title, logits, vocabulary):
    from sft.labels.codec import Codebook, decode, encode, encode_parts

    labels, students = collect(logits)
    tokens = sum(map(len, labels))
    with Timer() as fitting:
        book, kinds = Codebook.fit(np.concatenate([one.top_ids for one in labels]))
    split = np.split(kinds, np.cumsum([len(one) for one in labels])[:-1])
    with Timer() as writing:
        blocks = [encode(o, TEMPERATURES, book, q) for o, q in zip(labels, split, strict=True)]
    with Timer() as reading:
        back = [decode(block, TEMPERATURES, book) for block in blocks]
    parts = {"codebook": len(book.pack())}
    for one, kind in zip(labels, split, strict=True):
        for name, part in encode_parts(one, TEMPERATURES, book, kind).items():
            short = name.rstrip("0123456789 ")
            parts[short] = parts.get(short, 0) + len(part)
    total = (parts["codebook"] + sum(map(len, blocks))) / tokens
    parts["heads"] = sum(map(len, blocks)) - sum(parts.values()) + parts["codebook"]
    theirs = distillkit_bytes(vocabulary)
    print(f"### {title}: {tokens:,} tokens, {len(blocks)} examples, vocabulary {vocabulary:,}\n")
    print(
        f"{total:.1f} bytes a token, {total / theirs:.2f} of DistillKit's {theirs}; ids and float16 "
        f"as they are {K * 6}. Fitting {tokens / fitting.seconds:,.0f}, writing "
        f"{tokens / writing.seconds:,.0f}, reading {tokens / reading.seconds:,.0f} tokens a second\n"
    )
    table([*parts], [[f"{size / tokens:.2f}" for size in parts.values()]])
    exact = losses(labels, students)
    rows = []
    for name, found in (("ours", back), ("DistillKit", [distillkit(one) for one in labels])):
        error = losses(found, students) - exact
        for i, t in enumerate(TEMPERATURES):
            size = np.abs(error[i])
            mean = exact[i].mean()
            figures = (size.mean(), size.mean() / mean, error[i].mean(), size.max())
            rows.append((name, f"{t:g}", f"{mean:.4f}", *(f"{x:.2g}" for x in figures)))
    table(["", "T", "loss", "mean error", "of the loss", "bias", "largest"], rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=8192)
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default)
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"no data at {options.data}; name a folder with --data")
        raise SystemExit(2)
    print(f"k = {K}, T = {TEMPERATURES}; {machine()}; {versions('numpy', 'zstandard')}\n")
    measure("SmolLM2-135M on MATH", torch_logits(options.tokens, options.data), 49_152)
    for kinds in (16, 1):
        made = synthetic_logits(options.tokens // 4, 151_936, kinds)
        measure(f"Zipf-like, {kinds} kind(s) of positions", made, 151_936)


if __name__ == "__main__":
    main()
