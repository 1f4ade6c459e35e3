"""How much the filters against duplicates find, and how much of what they drop is right.

    python bench/accuracy/dedup.py [--data FOLDER] [--pairs 4000]

Edited copies of real texts are planted among them: reasoning traces, worked solutions, questions,
Chinese questions. What should be found is counted apart from the filters' own code. Each wrong
drop is listed, and of the pairs that were missed how near they are.
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]


def read(data, name):
    return [json.loads(line) for line in (data / name).read_text(encoding="utf-8").splitlines()]


def corpora(data):
    """Records by the name of the corpus."""
    from synth.core.record import Record, Task

    def records(rows, question, answer, kind):
        return [
            Record(f"{kind}-{n}", Task(f"{kind}-{n}", row[question]), [], None, row[answer])
            for n, row in enumerate(rows)
        ]

    cots = [
        Record(f"cot-{row['idx']}-{n}", Task(f"cot-{row['idx']}", row["question"]), [], None, text)
        for row in read(data, "math-cot-100.jsonl")
        for n, text in enumerate(row["code"])
    ]
    gsm8k = records(read(data, "gsm8k-train.jsonl"), "question", "answer", "gsm8k")
    math500 = records(read(data, "math500.jsonl"), "problem", "solution", "math500")
    cmath = records(read(data, "cmath-test.jsonl"), "question", "answer", "cmath")
    return {
        "traces (math-cot-100)": (cots, "trace"),
        "worked solutions (gsm8k, math500)": (gsm8k + math500, "trace"),
        "questions (gsm8k, math500)": (gsm8k + math500, "question"),
        "Chinese questions (cmath)": (cmath, "question"),
    }


def print_alike(records):
    """Questions that `semantic_dedup` takes for the same, to be read: are they?"""
    from filters import semantic_dedup
    from filters.base import Context

    check = semantic_dedup.build(semantic_dedup.Config(on="question"), Context())
    questions = {record.id: record.task.question for record in records}
    print("## Questions at a cosine of 0.98 and over\n")
    for record, decision in zip(records, check(lambda: iter(records)), strict=True):
        if not decision.keep:
            print(f"{decision.score:.3f}\n  {record.task.question!r}")
            print(f"  {questions[decision.evidence['partner']]!r}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--pairs", type=int, default=4000)
    options = parser.parse_args()
    if not options.data.exists():
        print(f"{options.data}: the real texts are not there; name their folder with --data")
        raise SystemExit(2)
    from common import table

    from filters.base import Context
    from filters.engine.calibrate_dedup import EDITS, calibrate

    def share(value):
        return "-" if value is None else f"{value:.4f}"

    gsm8k, _ = corpora(options.data)["questions (gsm8k, math500)"]
    for name, extra in (
        ("near_dedup", {"per_question": False}),
        ("near_dedup", {"per_question": False, "threshold": 0.6}),
        ("exact_dedup", {}),
        ("semantic_dedup", {"per_question": False}),
        ("semantic_dedup", {"per_question": False, "threshold": 0.9}),
    ):
        print(f"## {name} {json.dumps(extra)}\n")
        rows, kinds, wrong = [], {kind: [0, 0] for kind in EDITS}, []
        for title, (records, on) in corpora(options.data).items():
            own = {
                key: value for key, value in extra.items() if key == "threshold" or on == "trace"
            }
            if name == "exact_dedup":
                own = {}
            start = time.perf_counter()
            found = calibrate(
                name,
                lambda r=records: iter(r),
                {"on": on, **own},
                Context(workers=2),
                options.pairs,
            )
            for kind in found.kinds:
                kinds[kind.name][0] += kind.found
                kinds[kind.name][1] += kind.pairs
            bands = [f"{share(band.recall)} of {band.pairs}" for band in found.bands]
            rows.append(
                (
                    title, found.records, found.pairs.pairs, share(found.pairs.recall), *bands,
                    share(found.precision), found.dropped, f"{time.perf_counter() - start:.0f}",
                )
            )  # fmt: skip
            wrong += found.wrong
        heads = [band.name for band in found.bands]
        table(
            ["", "records", "pairs", "recall", *heads, "precision", "of drops", "s"],
            rows,
        )
        table(
            ["edit", "found", "of"],
            [(kind, *counts) for kind, counts in kinds.items() if counts[1]],
        )
        for one, other, similarity in wrong:
            print(f"wrong: {one} for {other}, {similarity:.4f}")
    print_alike([record for record in gsm8k if record.id.startswith("gsm8k")])


if __name__ == "__main__":
    main()
