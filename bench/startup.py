"""How long `distill --help` takes, beside a Python that does nothing."""

import statistics
import subprocess
import sys
import time

from common import machine, table, versions

RUNS = 15


def seconds(*command):
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main():
    ours, bare = [], []
    for _ in range(RUNS):
        ours.append(seconds(sys.executable, "-m", "synth", "--help"))
        bare.append(seconds(sys.executable, "-c", "pass"))
    print(f"`distill --help`, {RUNS} runs each in turn; {machine()}; {versions('typer', 'rich')}\n")
    rows = [
        (name, f"{statistics.median(t):.3f}", f"{min(t):.3f}", f"{max(t):.3f}")
        for name, t in (("distill --help", ours), ("python -c pass", bare))
    ]
    table(["", "median s", "min", "max"], rows)


if __name__ == "__main__":
    main()
