"""Adaptive sampling beside a fixed number of samples, on the same recorded answers.

    python bench/sampling.py record --out FOLDER     SmolLM2 answers sums, 16 samples each (minutes)
    python bench/sampling.py --out FOLDER [--traces math-cot-100.jsonl]     replays them

Every answer of a question is recorded first, right or wrong with its tokens. Then the generation
itself runs over the record under each policy, so that all policies meet the same answers; what
giving up costs to learn is counted in. Covered are the questions with a verified answer.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
from pathlib import Path

from common import GGUF, table

from synth.config.generate import Samples, Sampling, Truncation
from synth.core.prompts import load_prompt
from synth.core.record import Task, Verdict
from synth.generate.runner import generate
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.store.responses import ResponseStore
from synth.teachers.base import Teacher

# What is asked of SmolLM2: the first are easier for it than the second.
SUMS = {
    "sums of one digit": (1, 1),
    "sums of one or two digits": (1, 2),
    "sums of two digits": (2, 2),
}
QUESTIONS, SAMPLES = 120, 16
# Questions that giving up learns from, and the chances below which it gives up.
LEARN, GIVE_UP = 64, (0.03, 0.04, 0.06, 0.08)


def record(out):
    """SmolLM2's answers to sums, judged by the math_answer filter; what is recorded is kept."""
    import reasoning_gym

    from filters.base import Context
    from filters.engine.chain import Chain
    from filters.engine.filter import FilterSpec, load_filters
    from synth.config.yaml_file import read_config
    from synth.teachers import transformers

    prompt = read_config("quickstart", []).data["generate"]["prompt"]
    out.mkdir(parents=True, exist_ok=True)
    for name, (low, high) in SUMS.items():
        path = out / f"{name.replace(' ', '-')}.json"
        if path.exists():
            continue
        made = reasoning_gym.create_dataset(
            "chain_sum", min_terms=2, max_terms=2, min_digits=low, max_digits=high,
            size=3 * QUESTIONS, seed=5,
        )  # fmt: skip
        unique = {row["metadata"]["expression"]: row["answer"] for row in made}
        tasks = [Task(q, q, a) for q, a in list(unique.items())[:QUESTIONS]]
        rows = {task.question: [] for task in tasks}
        with (
            Chain(load_filters([FilterSpec("math_answer")]), Context()) as chain,
            ResponseStore(out / "s") as store,
        ):

            def emit(task, records, rows=rows):
                for r in records:
                    passed = r.rejected_by is None
                    rows[task.question].append([passed, r.generation.completion_tokens])

            teacher = transformers.build(transformers.Config(model=GGUF, batch_size=32), "t")
            ask = GenerationSpec(
                teachers={"t": teacher}, prices={}, prompt=load_prompt(prompt["template"]),
                values=prompt["values"], sampling=Sampling(temperature=0.7, max_tokens=48),
                samples=Samples(max=SAMPLES), check=chain.check_trace,
            )  # fmt: skip
            asyncio.run(generate(ask, store, tasks, emit, GenerationStats()))
        path.write_text(json.dumps(rows))
        print(f"{name}: {sum(map(len, rows.values()))} answers", flush=True)


def traces(path):
    """Real traces with labels: eight answers each to a hundred MATH questions; tokens as counted."""
    from synth.core.models import load_tokenizer

    tokenizer = load_tokenizer(GGUF)
    rows = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        lengths = [len(tokenizer(code)["input_ids"]) for code in row["code"]]
        answers = [list(pair) for pair in zip(row["score"], lengths, strict=True)]
        rows[row["question"]] = answers, {"level": row["level"]}
    return rows


class Replay(Teacher):
    """Answers with what was recorded."""

    def __init__(self, rows):
        self.rows, self.identity = rows, {"kind": "replay"}

    async def complete(self, request):
        _, answers, _ = self.rows[int(request.task.id)]
        passed, tokens = answers[request.sample]
        await asyncio.sleep(0)
        message = {"content": "right" if passed else "wrong"}
        return {
            "choices": [{"message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 0, "completion_tokens": tokens},
        }


def replayed(rows, samples):
    """What a policy comes to: tokens, and questions with a verified answer."""
    covered = 0

    def emit(task, records):
        nonlocal covered
        covered += any(r.rejected_by is None for r in records)

    check = lambda r: [Verdict("v", r.answer == "right", "" if r.answer == "right" else "wrong")]  # noqa: E731
    with tempfile.TemporaryDirectory() as folder, ResponseStore(Path(folder) / "s") as store:
        counts = GenerationStats()
        ask = GenerationSpec(
            teachers={"t": Replay(rows)}, prices={}, prompt=load_prompt("plain"), values={},
            sampling=Sampling(), samples=samples, check=check, truncation=Truncation(alarm=None),
        )  # fmt: skip
        # The number makes each a question of its own, where one is drawn several times.
        tasks = [Task(str(i), f"{q} ({i:04})", "x", "s", m) for i, (q, _, m) in enumerate(rows)]
        asyncio.run(generate(ask, store, tasks, emit, counts))
    return counts.completion_tokens, covered


def compare(recorded, size, repeats):
    """Replays every policy and prints one beside the other; medians over the repeats.

    Each repeat draws `size` of the recorded questions, with replacement where there are fewer, and
    an order of each one's answers.
    """
    longest = len(next(iter(recorded.values()))[0])
    fixed = [n for n in (4, 8) if n <= longest]
    policies = {f"fixed {n}": Samples(max=n) for n in fixed}
    policies |= {f"until 1, at most {n}": Samples(max=n, until_verified=1) for n in fixed}
    if size >= 8 * LEARN:
        policies |= {
            f"until 1, at most {longest}, give_up {g}": Samples(
                max=longest, until_verified=1, give_up=g, learn=LEARN
            )
            for g in GIVE_UP
        }
    found = {name: [] for name in policies}
    for repeat in range(repeats):
        draw = random.Random(repeat)
        names = list(recorded)
        names = draw.sample(names, size) if size <= len(names) else draw.choices(names, k=size)
        rows = [(q, draw.sample(recorded[q][0], longest), recorded[q][1]) for q in names]
        for name, samples in policies.items():
            found[name].append(replayed(rows, samples))
    for n in fixed:
        base = found[f"fixed {n}"]
        table(
            ["policy", "tokens", f"to fixed {n}", "least, most", "covered", f"to fixed {n}",
             "tokens a verified"],
            [_row(name, runs, base) for name, runs in found.items()
             if not name.startswith(("fixed", "until 1, at most")) or name.endswith(f" {n}")
             or "give_up" in name],
        )  # fmt: skip


def _row(name, runs, base):
    ratios = [one[0] / other[0] for one, other in zip(runs, base, strict=True)]
    gain = [one[1] / other[1] - 1 for one, other in zip(runs, base, strict=True)]
    tokens, covered = (statistics.median(column) for column in zip(*runs, strict=True))
    return (
        name, f"{tokens:,.0f}", f"{statistics.median(ratios):.2f}",
        f"{min(ratios):.2f}, {max(ratios):.2f}", f"{covered:.0f}",
        f"{statistics.median(gain):+.0%}", f"{tokens / covered:.0f}",
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["record", "replay"], default="replay")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--size", type=int, default=1000, help="questions of a stretched set")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    if given.what == "record":
        record(given.out)
        return
    sets = {
        path.stem.replace("-", " "): {
            q: (answers, {}) for q, answers in json.loads(path.read_text()).items()
        }
        for path in sorted(given.out.glob("*.json"))
    }
    if given.traces:
        real = traces(given.traces)
        sets["MATH, eight real traces each"] = real
        sets["of these, those not always solved"] = {
            q: row for q, row in real.items() if not all(p for p, _ in row[0])
        }
    for title, rows in sets.items():
        rate = statistics.fmean(p for answers, _ in rows.values() for p, _ in answers)
        print(f"{title}: {len(rows)} questions, mean pass rate {rate:.2f}\n")
        compare(rows, len(rows), given.repeats)
        if len(rows) >= 100:
            print(f"the same, {given.size} questions drawn from them\n")
            compare(rows, given.size, given.repeats)


if __name__ == "__main__":
    main()
