"""Speed of the whole default chain, each filter's share of it, and memory as the data grows.

    .venv/bin/python bench/chain.py [--records N ...] [--data FOLDER]

The filters are those of configs/filter-only.yaml. The records are real traces (math-cot-100, 800
answers to MATH questions) over and over, in every copy one word of fifty is another one, so that no
two are alike and near duplicates are as many as can be. Each run is `distill filter` itself, in a
folder of its own; its time is the stage's, start of processes included.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from common import machine, table, versions  # noqa: E402

DATA = ROOT.parent / "shared" / "data"


def write_traces(path, count, folder, seed=1):
    """`count` traces with their reference, source and level."""
    draw = random.Random(seed)
    rows = [json.loads(line) for line in (folder / "math-cot-100.jsonl").read_text().splitlines()]
    real = [(row, answer) for row in rows for answer in row["code"]]
    with path.open("w") as file:
        for number in range(count):
            row, text = real[number % len(real)]
            words = text.split(" ")
            for _ in range(len(words) // 50 if number >= len(real) else 0):
                words[draw.randrange(len(words))] = f"w{draw.randrange(10**6)}"
            trace = {
                "problem": row["query"], "solution": " ".join(words), "answer": row["gt"],
                "source": "math", "level": row["level"],
            }  # fmt: skip
            file.write(json.dumps(trace) + "\n")


def run(path, cores, folder):
    """`distill filter` on some cores: seconds of the stage, of each filter, and peak memory."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "synth", "filter", str(path), f"runs={folder}"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )  # fmt: skip
    peak = watch(process)
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(err)
    (manifest,) = Path(folder).glob("filter-*/filter/manifest.json")
    found = json.loads(manifest.read_text())
    stated = re.findall(r"(\w+) will hold up to ([\d,]+) MB", out)
    return found["seconds"], found["funnel"], peak, stated


def watch(process):
    """The most that the process and its children hold together, in MB of private memory."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(private_mb(pid) for pid in family(process.pid)))
        time.sleep(0.1)
    return round(peak)


def family(pid):
    listing = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True).stdout
    parents = [tuple(map(int, line.split())) for line in listing.splitlines()[1:]]
    found, new = {pid}, {pid}
    while new:
        new = {child for child, parent in parents if parent in new} - found
        found |= new
    return found


def private_mb(pid):
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(x.split()[1]) for x in lines if x.startswith("Private")) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--data", type=Path, default=DATA)
    chosen = parser.parse_args()
    if not (chosen.data / "math-cot-100.jsonl").exists():
        print(f"no math-cot-100.jsonl in {chosen.data}", file=sys.stderr)
        raise SystemExit(2)
    every = sorted(os.sched_getaffinity(0))
    print(f"`distill filter`, shipped filters; {machine()}; {versions('math-verify', 'pyarrow')}\n")
    rows, funnel = [], None
    for count in chosen.records:
        for cores in ([every[0]], every):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "traces.jsonl"
                write_traces(path, count, chosen.data)
                seconds, funnel, peak, stated = run(path, cores, folder)
            rate = count / seconds
            said = ", ".join(f"{name} {mb} MB" for name, mb in stated)
            rows.append((f"{count:,}", len(cores), f"{seconds:.1f}", f"{rate:.0f}", f"{rate / len(cores):.0f}", peak, said))  # fmt: skip
    table(["records", "cores", "s", "records/s", "a core", "peak MB", "stated"], rows)
    whole = sum(one["seconds"] for one in funnel["filters"])
    shares = [
        (one["name"], f"{1e6 * one['seconds'] / funnel['total']:,.0f}", f"{one['seconds'] / whole:.1%}", f"{one['dropped']:,}")
        for one in funnel["filters"]
    ]  # fmt: skip
    table(["filter", "us a record", "share", "dropped"], shares)


if __name__ == "__main__":
    main()
