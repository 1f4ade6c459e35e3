"""How often `code_tests` agrees with running the tests bare, on HumanEval and changed solutions.

    .venv/bin/python bench/accuracy/code_tests.py [--data FOLDER] [--mutants N] [--seed N]

All 164 canonical solutions, and of each several mutants in which one operator or one constant is
another. What is right is established by running prompt, solution and test in a plain Python process
(the mutants are of trusted code). Prints a table and every disagreement.
"""

import argparse
import ast
import collections
import gzip
import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The checkout before bench/, where a file has the name of a package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common import machine, table, versions

from filters import code_tests
from filters._sandbox import sandbox
from filters.base import Context
from synth.core.record import Record, Task

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TIMEOUT = 2  # seconds of processor time; bare runs have five times as long by the clock
SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.FloorDiv: ast.Mod, ast.Pow: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.USub: ast.UAdd,
}  # fmt: skip


class Mutation(ast.NodeTransformer):
    """Changes the n-th place that can be changed; `count` says how many there are."""

    def __init__(self, which):
        self.which, self.count = which, 0

    def _here(self):
        self.count += 1
        return self.count - 1 == self.which

    def generic_visit(self, node):
        super().generic_visit(node)
        for name in ("op", "ops"):
            value = getattr(node, name, None)
            ops = value if isinstance(value, list) else [value]
            for place, op in enumerate(ops):
                if type(op) in SWAPS and self._here():
                    ops[place] = SWAPS[type(op)]()
                    setattr(node, name, ops if isinstance(value, list) else ops[0])
        return node

    def visit_Constant(self, node):
        if not isinstance(node.value, bool | int | float | str) or not self._here():
            return node
        changed = {bool: lambda v: not v, str: lambda v: v[1:] if v else "x"}
        return ast.Constant(changed.get(type(node.value), lambda v: v + 1)(node.value))


def solutions(row, mutants, rng):
    """The canonical solution, then mutants of it, as whole functions in the prompt's file."""
    yield "canonical", row["prompt"] + row["canonical_solution"]
    whole = row["prompt"] + row["canonical_solution"]
    function = next(
        node for node in ast.parse(whole).body
        if isinstance(node, ast.FunctionDef) and node.name == row["entry_point"]
    )  # fmt: skip
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:]
    source = ast.unparse(function)
    counter = Mutation(-1)
    counter.visit(ast.parse(source))
    for which in rng.sample(range(counter.count), min(mutants, counter.count)):
        tree = ast.fix_missing_locations(Mutation(which).visit(ast.parse(source)))
        yield "mutant", ast.unparse(tree)


def bare(row, code):
    """`passed`, `failed` or `timed out`, by a plain process."""
    program = (
        f"{row['prompt']}\n    pass\n{code}\n{row['test']}\nimport random\nrandom.seed(0)\n"
        f"check({row['entry_point']})\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", program], capture_output=True, timeout=5 * TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return "timed out"
    return "failed" if done.returncode else "passed"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--mutants", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    path = options.data / "humaneval.jsonl.gz"
    if not path.exists():
        print(f"{path} is not here", file=sys.stderr)
        raise SystemExit(2)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    tier = "+".join(sandbox.require())
    check = code_tests.build(code_tests.Config(timeout=TIMEOUT), Context())
    rng = random.Random(options.seed)
    cases = [
        (row, kind, code) for row in rows for kind, code in solutions(row, options.mutants, rng)
    ]

    def judge(case):
        row, kind, code = case
        metadata = {name: row[name] for name in ("prompt", "test", "entry_point")}
        task = Task(row["task_id"], row["prompt"], None, "", metadata)
        start = time.perf_counter()
        decision = check(Record("r", task, [], None, f"```python\n{code}\n```\n"))
        return kind, bare(row, code), decision, time.perf_counter() - start

    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(judge, cases))
    counts = collections.Counter()
    for kind, truth, decision, _ in results:
        said = {True: "kept", False: "not kept", None: "cannot tell"}[decision.keep]
        counts[kind, truth, said] += 1
    print(f"{machine()}; {versions()}; {tier}; seed {options.seed}")
    print(f"{len(results)} solutions in {time.perf_counter() - start:.0f} s\n")
    table(
        ["solution", "bare", "code_tests", "count"],
        [(*key, count) for key, count in sorted(counts.items())],
    )
    kinds = collections.Counter(
        decision.reason.partition(":")[0] for _, _, decision, _ in results if not decision.keep
    )
    table(["reason", "count"], kinds.most_common())
    agreed = 0
    for (row, kind, code), (_, truth, decision, _) in zip(cases, results, strict=True):
        if decision.keep is (truth == "passed"):
            agreed += 1
            continue
        print(f"{row['task_id']} ({kind}): bare {truth}, code_tests {decision.reason or 'kept'}")
        print(f"    {decision.evidence}\n    {code[-300:]!r}")
    print(f"agreement: {agreed} of {len(results)} ({100 * agreed / len(results):.2f} %)")


if __name__ == "__main__":
    main()
