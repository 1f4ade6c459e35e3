"""Adaptive sampling beside a fixed number of samples, on the same recorded answers.

    python bench/sampling.py record --out FOLDER     SmolLM2 answers sums, 16 samples each (minutes)
    python bench/sampling.py --out FOLDER [--traces math-cot-100.jsonl]     replays them

Every answer of a question is recorded first, right or wrong with its tokens. Then the generation
itself runs over the record under each policy, so that all policies meet the same answers. Equal
coverage: as many questions with a verified trace as under the fixed number.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
from pathlib import Path

from common import GGUF, table

from synth.counts import Counts
from synth.generate import Ask, generate
from synth.generate_config import Samples, Sampling, Truncation
from synth.prompts import load_prompt
from synth.record import Task, Verdict
from synth.store import Store

# What is asked of SmolLM2: the first are easier for it than the second.
SUMS = {
    "sums of one digit": (1, 1),
    "sums of one or two digits": (1, 2),
    "sums of two digits": (2, 2),
}
QUESTIONS, SAMPLES = 120, 16


def record(out):
    """SmolLM2's answers to sums, judged by the math_answer filter; what is recorded is kept."""
    import reasoning_gym

    from filters.chain import FilterSpec, build_chain
    from filters.contract import Context
    from synth.configfile import read_config
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
        rows = {task.id: [] for task in tasks}
        with (
            build_chain([FilterSpec("math_answer")], Context()) as chain,
            Store(out / "s") as store,
        ):

            def emit(task, records, rows=rows):
                for r in records:
                    passed = r.rejected_by is None
                    rows[task.id].append([passed, r.generation.completion_tokens])

            teacher = transformers.build(transformers.Config(model=GGUF, batch_size=32), "t")
            ask = Ask(
                teachers={"t": teacher}, prices={}, prompt=load_prompt(prompt["template"]),
                values=prompt["values"], sampling=Sampling(temperature=0.7, max_tokens=48),
                samples=Samples(max=SAMPLES), check=chain.check_trace,
            )  # fmt: skip
            asyncio.run(generate(ask, store, tasks, emit, Counts()))
        path.write_text(json.dumps(list(rows.values())))
        print(f"{name}: {sum(map(len, rows.values()))} answers", flush=True)


def traces(path):
    """Real traces with labels: eight answers each to a hundred MATH questions; tokens as counted."""
    from synth.models import load_tokenizer

    tokenizer = load_tokenizer(GGUF)
    rows = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        lengths = [len(tokenizer(code)["input_ids"]) for code in row["code"]]
        rows.append([list(pair) for pair in zip(row["score"], lengths, strict=True)])
    return rows


class Replay:
    """Answers with what was recorded."""

    def __init__(self, rows):
        self.rows, self.identity = rows, {"kind": "replay"}

    async def complete(self, request):
        passed, tokens = self.rows[int(request.task.id)][request.sample]
        await asyncio.sleep(0)
        message = {"content": "right" if passed else "wrong"}
        return {
            "choices": [{"message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 0, "completion_tokens": tokens},
        }

    async def close(self):
        pass


def replayed(rows, samples):
    """What a policy comes to: tokens, questions covered, verified traces kept."""
    covered = kept = 0
    wanted = samples.until_verified or 1

    def emit(task, records):
        nonlocal covered, kept
        passed = sum(r.rejected_by is None for r in records)
        covered += passed > 0
        kept += min(passed, wanted)

    check = lambda r: [Verdict("v", r.answer == "right", "" if r.answer == "right" else "wrong")]  # noqa: E731
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "s") as store:
        counts = Counts()
        ask = Ask(
            teachers={"t": Replay(rows)}, prices={}, prompt=load_prompt("plain"), values={},
            sampling=Sampling(), samples=samples, check=check, truncation=Truncation(alarm=None),
        )  # fmt: skip
        tasks = [Task(str(i), f"question {i}", "x", "s") for i in range(len(rows))]
        asyncio.run(generate(ask, store, tasks, emit, counts))
    return counts.completion_tokens, covered, kept


def compare(rows, fixed, repeats):
    """A row for each policy; medians over orders of each question's answers."""
    policies = {
        f"fixed {fixed}": Samples(max=fixed),
        f"until 1 verified, at most {fixed}": Samples(max=fixed, until_verified=1),
    }
    longest = len(rows[0])
    if longest > fixed:
        for give_up in (0.01, 0.02, 0.04):
            policies[f"until 1 verified, at most {longest}, give up below {give_up}"] = Samples(
                max=longest, until_verified=1, give_up=give_up, learn=32
            )
    found = {name: [] for name in policies}
    for repeat in range(repeats):
        draw = random.Random(repeat)
        shuffled = [draw.sample(row, len(row)) for row in rows]
        draw.shuffle(shuffled)
        for name, samples in policies.items():
            found[name].append(replayed(shuffled, samples))
    base = found[f"fixed {fixed}"]
    for name, results in found.items():
        ratio = [one[0] / other[0] for one, other in zip(results, base, strict=True)]
        gain = [one[1] - other[1] for one, other in zip(results, base, strict=True)]
        middle = [statistics.median(column) for column in zip(*results, strict=True)]
        yield (
            name, f"{middle[0]:,.0f}", f"{statistics.median(ratio):.2f}",
            f"{max(ratio):.2f}", f"{middle[1]:.0f}", f"{statistics.median(gain):+.0f}",
            f"{middle[0] / middle[2]:.0f}",
        )  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=["record", "replay"], default="replay")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    if given.what == "record":
        record(given.out)
        return
    sets = {
        p.stem.replace("-", " "): json.loads(p.read_text())
        for p in sorted(given.out.glob("*.json"))
    }
    if given.traces:
        real = traces(given.traces)
        sets["MATH, eight real traces each"] = real
        sets["of these, those not always solved"] = [r for r in real if not all(p for p, _ in r)]
    for title, rows in sets.items():
        rate = statistics.fmean(p for row in rows for p, _ in row)
        print(f"{title}: {len(rows)} questions, mean pass rate {rate:.2f}\n")
        for fixed in sorted({4, 8} & set(range(len(rows[0]) + 1))):
            table(
                ["policy", "tokens", "to fixed", "worst of runs", "questions covered", "to fixed",
                 "tokens a trace kept"],
                compare(rows, fixed, given.repeats),
            )  # fmt: skip


if __name__ == "__main__":
    main()
