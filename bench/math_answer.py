"""Speed of `math_answer` against bare math-verify in one process, and what a hanging pair costs.

    .venv/bin/python bench/math_answer.py [--pairs N] [--runs N] [--data FOLDER]

Three mixes of real answers. Start-up (imports, worker processes) is inside the time of each way:

    bare     math-verify in one process: parse both, verify, its own time limits as they are
    command  as `distill filter` runs it: two processes, each with one thread and one worker
    threads  one process, two threads, two workers
"""

import argparse
import functools
import json
import multiprocessing
import random
import resource
import statistics
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from common import Timer, machine, measured, table, versions  # noqa: E402

from filters import math_answer  # noqa: E402
from filters.answers import boxed, equivalence  # noqa: E402
from filters.base import Context  # noqa: E402
from synth.core.record import Record, Task  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
CORES = 2
MIXES = {
    "real": "real answers and their references, repeated",
    "distinct": "distinct pairs, references mostly moved",
    "hard": "only pairs that no text decides",
}
BOMBS = [r"\boxed{(10^9)!}", r"\boxed{10^{10^{10}}}"]


def pairs_of(mix, count, folder):
    """`count` pairs of an answer and a reference, in an order drawn with a fixed seed."""
    cot, math = (
        [json.loads(line) for line in (folder / name).read_text().splitlines() if line]
        for name in ("math-cot-100.jsonl", "math500.jsonl")
    )
    real = [(answer, row["gt"]) for row in cot for answer in row["code"]]
    if mix == "real":
        pairs = (real * (count // len(real) + 1))[:count]
    else:
        said = [(answer, i) for i, row in enumerate(cot) for answer in row["code"]]
        solutions = [row["solution"] for row in math]
        pairs = real + [(f"It is ${row['answer']}$.", row["answer"]) for row in math]
        for move in range(50 if mix == "hard" else 11):
            pairs += [(s, math[(i + move) % len(math)]["answer"]) for i, s in enumerate(solutions)]
        for move in range(1, 9 if mix == "hard" else 5):
            pairs += [(answer, cot[(i + move) % len(cot)]["gt"]) for answer, i in said]
    if mix == "hard":
        pairs = [pair for pair in dict.fromkeys(pairs) if needs_library(*pair)]
    random.Random(0).shuffle(pairs)
    return pairs[:count]


final_boxes = functools.cache(boxed.final_boxes)


def needs_library(answer, reference):
    boxes = final_boxes(answer)
    return (
        len(boxes) != 1 or equivalence._by_text(boxes[0], boxed.bare_reference(reference)) is None
    )


def bare(pairs):
    from math_verify import parse, verify

    return Counter(verify(parse(f"${reference}$"), parse(answer)) for answer, reference in pairs)


def threads(pairs):
    check = math_answer.build(math_answer.Config(), Context(workers=CORES))
    with ThreadPoolExecutor(CORES) as pool:
        found = Counter(d.keep for d in pool.map(check, [record(*pair) for pair in pairs]))
    check.close()
    return found


def share_of(pairs, results):
    """One process of the command's: one thread, one worker."""
    check = math_answer.build(math_answer.Config(), Context(workers=1))
    results.put(Counter(check(record(*pair)).keep for pair in pairs))
    check.close()


def command(pairs):
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    processes = [
        spawn.Process(target=share_of, args=(pairs[at::CORES], results)) for at in range(CORES)
    ]
    for process in processes:
        process.start()
    found = sum((results.get() for _ in processes), Counter())
    for process in processes:
        process.join()
    return found


WAYS = {"bare": bare, "command": command, "threads": threads}


def record(answer, reference):
    return Record("r", Task("t", "q", reference), [], None, answer)


def one(way, mix, count, folder):
    pairs = pairs_of(mix, int(count), Path(folder))
    with Timer() as timer:
        found = WAYS[way](pairs)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(u.ru_utime + u.ru_stime for u in used)
    print(json.dumps({"seconds": timer.seconds, "cpu": cpu, "right": found[True]}))


def hang(folder):
    """A pair that never ends among others, on one worker: what each pair takes."""
    pairs = pairs_of("real", 200, folder)
    rows = []
    for bomb in BOMBS:
        check = math_answer.build(math_answer.Config(timeout=2), Context(workers=CORES))
        check(record(r"\boxed{1/2}", "0.5"))
        taken = []

        def timed(pair, check=check, taken=taken):
            start = time.perf_counter()
            decision = check(record(*pair))
            taken.append((time.perf_counter() - start, pair[0] in BOMBS, decision.reason))

        with Timer() as timer, ThreadPoolExecutor(CORES) as pool:
            list(pool.map(timed, [*pairs[:100], (bomb, "5"), *pairs[100:]]))
        check.close()
        own = next(row for row in taken if row[1])
        slowest = max(row[0] for row in taken if not row[1])
        lost = sum("timed out" in row[2] for row in taken if not row[1])
        rows.append((bomb, f"{own[0]:.2f}", own[2], f"{slowest:.2f}", lost, f"{timer.seconds:.2f}"))
    header = ["pair", "seconds", "verdict", "slowest other", "others lost", "all 201"]
    table(header, rows)


def main():
    if sys.argv[1:2] == ["--one"]:
        return one(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    parser.add_argument("--pairs", type=int, default=10_000, help="pairs in each mix")
    parser.add_argument("--runs", type=int, default=3, help="runs of each way, in turn")
    options = parser.parse_args()
    folder, count = options.data, options.pairs
    if not (folder / "math500.jsonl").exists():
        print(f"the real data is not in {folder}", file=sys.stderr)
        raise SystemExit(2)
    print(f"{count} pairs, {options.runs} runs in turn, medians; {machine()}; ", end="")
    print(versions("math-verify", "sympy"), "\n")
    rows = []
    for mix, what in MIXES.items():
        pairs = pairs_of(mix, count, folder)
        library = sum(needs_library(*pair) for pair in pairs) / len(pairs)
        found = {way: [] for way in WAYS}
        for _ in range(options.runs):
            for way in WAYS:
                found[way].append(measured(__file__, way, mix, str(count), str(folder)))
        seconds = {w: statistics.median(r["seconds"] for r in rs) for w, rs in found.items()}
        for way, runs in found.items():
            times = seconds["bare"] / seconds[way]
            rows.append(
                (what, f"{library:.0%}", way, f"{seconds[way]:.1f}", f"{count / seconds[way]:.0f}",
                 f"{times:.2f}", f"{statistics.median(r['cpu'] for r in runs):.1f}",
                 runs[0]["right"])
            )  # fmt: skip
    header = [
        "mix",
        "need math-verify",
        "way",
        "seconds",
        "pairs/s",
        "times bare",
        "CPU s",
        "right",
    ]
    table(header, rows)
    hang(folder)
    return None


if __name__ == "__main__":
    main()
