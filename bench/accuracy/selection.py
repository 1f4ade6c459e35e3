"""What the selecting filters choose of real data, and how fast they are over 100,000 records.

.venv/bin/python bench/accuracy/selection.py [--data FOLDER]
"""

import argparse
import json
import random
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from filters import best_of, difficulty, diversity, length_sample, math_answer, pass_rate, quota  # noqa: E402
from filters._models.embeddings import STATIC, embedder  # noqa: E402
from filters.base import Context, decide  # noqa: E402
from synth.core.record import Record, Task, Verdict  # noqa: E402


def run(module, records, **options):
    check = module.build(module.Config(**options), Context(seed=1))
    start = time.perf_counter()
    decisions = list(check(lambda: iter(records)))
    return decisions, time.perf_counter() - start


def kept(module, records, **options):
    decisions, _ = run(module, records, **options)
    return [record for record, decision in zip(records, decisions, strict=True) if decision.keep]


def rates(rows):
    """Pass rates by `math_answer` against those of the labels that came with the traces."""
    check = math_answer.build(math_answer.Config(), Context())
    records, labels = [], {}
    for row in rows:
        task = Task(str(row["idx"]), row["question"], row["gt"], "math")
        labels[task.id] = [bool(score) for score in row["score"]]
        for i, text in enumerate(row["code"]):
            record = Record(f"{task.id}-{i}", task, [], None, text)
            record.verdicts = [Verdict("math_answer", check(record).keep)]
            records.append(record)
    decisions, _ = run(pass_rate, records, pass_rate_min=0.1, pass_rate_max=0.9, right_only=False)
    of = {r.task.id: d for r, d in zip(records, decisions, strict=True)}
    same = sum(d.evidence["right"] == sum(labels[t]) for t, d in of.items())
    print(
        f"pass_rate: {len(of)} questions with 8 real answers each; {same} rates are those of the labels"
    )
    for task, d in of.items():
        if d.evidence["right"] != sum(labels[task]):
            print(
                f"  question {task}: {d.evidence}, by the labels {sum(labels[task])} of {len(labels[task])}"
            )
    print(f"  kept at 0.1 to 0.9: {sum(bool(d.keep) for d in of.values())}; "
          f"{dict(Counter(d.reason.split(':')[0] or 'kept' for d in of.values()))}")  # fmt: skip
    chosen = kept(best_of, records)
    right = sum(r.verdicts[0].keep is True for r in chosen)
    print(f"best_of (verified, shortest): {len(chosen)} traces, {right} of them right; "
          f"{sum(any(v) for v in labels.values())} questions have a right one")  # fmt: skip
    check.close() if hasattr(check, "close") else None


def levels(rows):
    config = difficulty.Config(level="level", level_min=3)
    check = difficulty.build(config, Context())
    tasks = [
        Task(str(i), r["problem"], r["answer"], r["subject"], {"level": r["level"]})
        for i, r in enumerate(rows)
    ]
    records = [Record(t.id, t, [], r["solution"], "") for t, r in zip(tasks, rows, strict=True)]
    found = [r for r in records if decide(check(r), config).keep]
    print(f"difficulty (level_min: 3): {len(found)} of {len(records)} MATH-500 questions kept")
    drawn = kept(length_sample, records, total=100)
    whole, part = (sum(len(r.reasoning) for r in some) / len(some) for some in (records, drawn))
    print(f"length_sample (100 of {len(records)} MATH-500 solutions): {dict(Counter(r.task.source for r in drawn))}; "
          f"mean length {part:.0f} characters, of all {whole:.0f}")  # fmt: skip
    equal = kept(quota, records, by=["metadata.level"], total=100)
    print(f"quota (by level, total 100): {dict(Counter(r.task.metadata['level'] for r in equal))}")


def spread(questions):
    records = [Record(str(i), Task(str(i), q), [], None, "") for i, q in enumerate(questions)]
    vectors = embedder(STATIC)(questions)
    decisions, seconds = run(diversity, records, total=200)

    def cover(places):
        return float((vectors @ vectors[places].T).max(axis=1).mean())

    chosen = [i for i, d in enumerate(decisions) if d.keep]
    at_random = [cover(random.Random(s).sample(range(len(records)), 200)) for s in range(20)]
    print(f"diversity (200 of {len(records)} GSM8K questions, {seconds:.1f} s): mean cosine with the nearest "
          f"kept {cover(chosen):.4f}; 20 random choices {min(at_random):.4f} to {max(at_random):.4f}")  # fmt: skip


def speed():
    rng = random.Random(0)
    records = []
    for i in range(100_000):
        task = Task(f"t{i // 4}", "q", "1", rng.choice("abcd"), {"level": rng.randrange(5)})
        verdicts = [
            Verdict("math_answer", rng.random() < 0.5),
            Verdict("judge", True, score=rng.random()),
        ]
        records.append(Record(f"r{i}", task, [], "x" * rng.randrange(900), "", None, verdicts))
    print("\nover 100,000 records:")
    for module, options in (
        (quota, {"by": ["source", "metadata.level"], "total": 20_000}),
        (best_of, {"by": ["verified", "judge", "shortest"]}),
        (length_sample, {"total": 20_000}),
        (pass_rate, {"pass_rate_min": 0.1, "pass_rate_max": 0.9}),
    ):
        decisions, seconds = run(module, records, **options)
        by = defaultdict(int)
        for decision in decisions:
            by[bool(decision.keep)] += 1
        print(
            f"  {module.__name__.rpartition('.')[2]}: {len(records) / seconds:,.0f} records/s, kept {by[True]:,}"
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    data = parser.parse_args().data

    def read(name):
        path = data / name
        if not path.exists():
            print(f"{path} is not here; give its folder with --data", file=sys.stderr)
            raise SystemExit(2)
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]

    rates(read("math-cot-100.jsonl"))
    levels(read("math500.jsonl"))
    spread([row["question"] for row in read("gsm8k-train.jsonl")])
    speed()


if __name__ == "__main__":
    main()
