"""Traces a second that are read from JSON Lines, and memory, beside a bare json.loads loop.

python bench/import_traces.py            about two minutes
"""

import importlib
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from common import alternate, machine, median, peak_mb, table, versions

ROWS, RUNS = 100_000, 5
# How the 400 words of a row lie in its columns.
LAYOUTS = {
    "pair, think tags": lambda q, r, a: {"problem": q, "generated_solution": f"<think>\n{r}\n</think>\n\n{a}", "expected_answer": "7"},
    "pair, no tags": lambda q, r, a: {"problem": q, "generated_solution": f"{r} {a}", "expected_answer": "7"},
    "messages": lambda q, r, a: {
        "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": f"<think>\n{r}\n</think>\n\n{a}"}],
        "num_tokens": 512, "source": "math",
    },
}  # fmt: skip


def make(layout, path):
    """100,000 rows of 400 words; one in twenty words is LaTeX."""
    draw = random.Random(0)
    words = [f"w{n}" for n in range(3000)] + [r"$\frac{1}{2}$", r"$x < y$", "[1, 2]"] * 50
    with path.open("w") as file:
        for n in range(ROWS):
            text = draw.choices(words, k=400)
            question, reasoning, answer = text[:40], text[40:360], text[360:]
            row = LAYOUTS[layout](
                f"{n} {' '.join(question)}", " ".join(reasoning), " ".join(answer)
            )
            file.write(json.dumps(row) + "\n")


def loop(path):
    with path.open("rb") as file:
        return sum(1 for line in file if json.loads(line))


def read(path):
    from synth.core.record import Record
    from synth.traces import read_traces

    traces = read_traces([{"source": "file", "path": str(path)}], lambda text: None)
    return sum(isinstance(item, Record) for item in traces)


def main():
    if sys.argv[1:2] == ["--one"]:
        way, _, path = sys.argv[2].partition(" ")
        if way == "read":  # the loop has nothing to import
            importlib.import_module("synth.traces")
            importlib.import_module("synth.traces.file")
        start = time.perf_counter()
        assert {"loop": loop, "read": read}[way](Path(path)) == ROWS
        print(json.dumps({"rate": ROWS / (time.perf_counter() - start), "mb": peak_mb()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = {layout: Path(folder) / f"{n}.jsonl" for n, layout in enumerate(LAYOUTS)}
        for layout, path in paths.items():
            make(layout, path)
        names = {
            (layout, way): f"{way} {path}"
            for layout, path in paths.items()
            for way in ("loop", "read")
        }
        measured = alternate(__file__, list(names.values()), RUNS)
    results = {f"{layout}/{way}": measured[name] for (layout, way), name in names.items()}
    print(f"{ROWS:,} rows of 400 words, {RUNS} runs each in turn, medians; {machine()}; {versions('pydantic-core', 'pyarrow')}\n")  # fmt: skip
    rows = []
    for layout in LAYOUTS:
        bare, ours = results[f"{layout}/loop"], results[f"{layout}/read"]
        rates = median(bare, "rate"), median(ours, "rate")
        figures = [f"{rate:,.0f}" for rate in rates] + [f"{rates[1] / rates[0]:.2f}"]
        rows.append((layout, *figures, f"{median(bare, 'mb'):.0f}", f"{median(ours, 'mb'):.0f}"))
    table(["rows", "json.loads rows/s", "traces/s", "ratio", "MB", "MB"], rows)


if __name__ == "__main__":
    main()
