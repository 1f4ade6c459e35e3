"""How often `math_answer` is right: real answers with labels, people's solutions, hard pairs.

    .venv/bin/python bench/accuracy/math_answer.py [--data FOLDER]

Prints a table, then every answer on which filter and label do not agree.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import _math_pairs  # noqa: E402
from common import machine, table, versions  # noqa: E402

from filters import math_answer  # noqa: E402
from filters.base import Context  # noqa: E402
from synth.core.record import Record, Task  # noqa: E402

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
NAMES = {True: "right", False: "wrong", None: "cannot tell"}


def read(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines() if line]


def sets(folder):
    """Each set's name, what its labels are, and its (answer, reference, label)."""
    cot = read(folder, "math-cot-100.jsonl")
    yield (
        "math-cot-100: real answers",
        [
            (answer, row["gt"], right)
            for row in cot
            for answer, right in zip(row["code"], row["score"], strict=True)
        ],
    )
    yield (
        "math-cot-100: references moved by one question",
        [
            (answer, other["gt"], False)
            for row, other in zip(cot, cot[1:] + cot[:1], strict=True)
            if row["gt"] != other["gt"]
            for answer in row["code"]
        ],
    )
    math = read(folder, "math500.jsonl")
    yield "MATH-500: people's solutions", [(r["solution"], r["answer"], True) for r in math]
    yield (
        "MATH-500: answers without a box",
        [(f"It is ${r['answer']}$.", r["answer"], True) for r in math],
    )
    yield (
        "MATH-500: references moved by one question",
        [
            (row["solution"], other["answer"], False)
            for row, other in zip(math, math[1:] + math[:1], strict=True)
            if row["answer"] != other["answer"]
        ],
    )
    gsm = [r for name in ("train", "test") for r in read(folder, f"gsm8k-{name}.jsonl")]
    yield "GSM8K: people's solutions", [(r["answer"], r["answer"], True) for r in gsm]
    yield (
        "GSM8K: references moved by one question",
        [
            (row["answer"], other["answer"], False)
            for row, other in zip(gsm, gsm[1:] + gsm[:1], strict=True)
            if row["answer"].split("#### ")[1] != other["answer"].split("#### ")[1]
        ],
    )
    cmath = read(folder, "cmath-test.jsonl")
    yield (
        "CMATH: a Chinese sentence around the answer",
        [(f"所以答案是{r['answer']}个。", r["answer"], True) for r in cmath],
    )
    yield (
        "CMATH: a box with a Chinese unit",
        [(f"答案是\\boxed{{{r['answer']}千克}}", r["answer"], True) for r in cmath],
    )
    yield "hard pairs, written for the rules", list(_math_pairs.pairs())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    folder = parser.parse_args().data
    if not (folder / "math500.jsonl").exists():
        print(f"the real data is not in {folder}", file=sys.stderr)
        raise SystemExit(2)
    check = math_answer.build(math_answer.Config(), Context(workers=2))
    rows, apart = [], []
    for name, pairs in sets(folder):
        start = time.perf_counter()
        with ThreadPoolExecutor(2) as threads:
            found = list(threads.map(check, [record(*pair[:2]) for pair in pairs]))
        seconds = time.perf_counter() - start
        labels = [label for *_, label in pairs]
        both = sum(d.keep is True and label is True for d, label in zip(found, labels, strict=True))
        kept, right = sum(d.keep is True for d in found), labels.count(True)
        same = sum(d.keep is label for d, label in zip(found, labels, strict=True))
        unsure = sum(d.keep is None for d in found)
        late = sum("timed out" in d.reason and d.keep is not None for d in found)
        assert late == 0, "a time-out counted as a verdict"
        rows.append(
            (
                name, len(pairs), f"{same / len(pairs):.2%}",
                f"{both / kept:.2%}" if right else "-", f"{both / right:.2%}" if right else "-",
                unsure, f"{seconds:.1f}",
            )
        )  # fmt: skip
        for (answer, reference, label), decision in zip(pairs, found, strict=True):
            if decision.keep is not label:
                apart.append((name, answer, reference, label, decision))
    check.close()
    print(f"{machine()}; {versions('math-verify', 'sympy')}\n")
    header = ["set", "answers", "agree", "precision", "recall", "cannot tell", "seconds"]
    table(header, rows)
    print(f"{len(apart)} on which they do not agree:\n")
    for name, answer, reference, label, decision in apart:
        said = decision.reason or "right"
        print(f"- {name}: label {NAMES[label]}; reference {show(reference)}; {show(said, 120)}; ")
        print(f"    ...{show(answer[-120:], 120)}")


def record(answer, reference):
    return Record("r", Task("t", "q", reference), [], None, answer)


def show(text, most=60):
    return ascii(text[:most]) if any("\ud800" <= c <= "\udfff" for c in text) else repr(text[:most])


if __name__ == "__main__":
    main()
