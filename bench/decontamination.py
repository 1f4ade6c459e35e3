"""Speed and memory of `overlap` and `decontaminate` against 10,000 evaluation questions, one process.

    .venv/bin/python bench/decontamination.py [--data FOLDER] [--questions 100000] [--traces 10000]

The evaluation questions are all of GSM8K, MATH-500, CMATH and HumanEval. The questions that are
checked are sentences of GSM8K put together anew, so that they share runs with many of them; the
traces are real ones, cut and joined to 400 words.
"""

import argparse
import gzip
import json
import random
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import Timer, machine, peak_mb, table, versions

from filters import decontaminate, overlap
from filters.base import Context
from synth.core.record import Record, Task


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data"
    )
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--traces", type=int, default=10_000)
    chosen = parser.parse_args()

    def read(name, column):
        path = chosen.data / name
        if not path.exists():
            print(f"{path} is not here; give its folder with --data", file=sys.stderr)
            raise SystemExit(2)
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            return [json.loads(line)[column] for line in file if line.strip()]

    gsm = read("gsm8k-train.jsonl", "question")
    evaluation = gsm + read("gsm8k-test.jsonl", "question") + read("math500.jsonl", "problem")
    evaluation += read("cmath-test.jsonl", "question") + read("humaneval.jsonl.gz", "prompt")
    rng = random.Random(0)
    sentences = [s for q in gsm for s in re.split(r"(?<=[.?!])\s+", q)]
    words = [
        w for answers in read("math-cot-100.jsonl", "code") for a in answers for w in a.split()
    ]

    def question():
        return Record("r", Task("t", " ".join(rng.sample(sentences, 4))), [], None, "")

    def trace():
        start = rng.randrange(len(words) - 400)
        return Record("r", Task("t", "q"), [], " ".join(words[start : start + 400]), "")

    before = peak_mb()
    context = Context(eval_tasks=[Task(str(i), q) for i, q in enumerate(evaluation)])
    rows = []
    for module, make, count in (
        (overlap, question, chosen.questions),
        (decontaminate, trace, chosen.traces),
    ):
        name = module.__name__.rpartition(".")[2]
        with Timer() as building:
            check = module.build(module.Config(), context)
        spent, hits = 0.0, 0
        for start in range(0, count, 1000):
            records = [make() for _ in range(min(1000, count - start))]
            with Timer() as checking:
                hits += sum(check(r).values["overlap"] > 0.7 for r in records)
            spent += checking.seconds
        rows.append(
            (
                name,
                f"{building.seconds:.2f}",
                f"{count:,}",
                f"{count / spent:,.0f}",
                hits,
                peak_mb() - before,
            )
        )
    print(f"{len(evaluation):,} evaluation questions; {machine()}; {versions('numpy')}\n")
    table(
        [
            "filter",
            "index built, s",
            "records",
            "records/s",
            "over the bound",
            "MB more at the peak",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
