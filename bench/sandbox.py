"""What a run in the sandbox costs over a bare one, how many it does a second, what memory passes.

    .venv/bin/python bench/sandbox.py

Bare and sandboxed runs of `python -I -S -c pass` take turns, so that a busy machine is busy for both.
"""

import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The checkout before this folder, where a file has the name of a package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import Timer, machine, table, versions

from filters._sandbox import sandbox
from filters._sandbox import usage as _sandbox_watch
from filters._sandbox.run import run_under

RUNS = 60
ARGV = [sandbox.PYTHON, "-I", "-S", "-B", "-c", "pass"]


def bare():
    subprocess.run(ARGV, stdin=subprocess.DEVNULL, capture_output=True, check=True)


def boxed():
    assert sandbox.run(ARGV).ended == "ok"


def single():
    ways = {"bare": bare, "sandbox": boxed}
    held = sandbox.require()
    for n in range(1, len(held) + 1):
        layers = held[:n]
        ways["+".join(layers)] = lambda layers=layers: run_under(
            ARGV, {}, b"", sandbox.Limits(), layers
        )
    seconds = {name: [] for name in ways}
    for _ in range(RUNS):
        for name, way in ways.items():
            with Timer() as timer:
                way()
            seconds[name].append(timer.seconds)
    base = statistics.median(seconds["bare"])
    rows = []
    for name, taken in seconds.items():
        taken.sort()
        middle = statistics.median(taken)
        rows.append(
            (
                name,
                f"{middle * 1e3:.1f}",
                f"{(middle - base) * 1e3:.1f}",
                f"{taken[int(0.95 * RUNS)] * 1e3:.1f}",
            )
        )
    table(["`python -I -S -c pass`", "median ms", "over bare", "95 % ms"], rows)


def many():
    rows = []
    for threads in (1, 2, 4):
        with ThreadPoolExecutor(threads) as pool, Timer() as timer:
            list(pool.map(lambda _: boxed(), range(150)))
        rows.append((threads, f"{150 / timer.seconds:.0f}"))
    table(["threads of one process", "runs a second"], rows)


def hog():
    """How far over its limit a program gets that fills memory as fast as it can."""
    limit = 256 << 20
    source = "import mmap\nheld = []\nwhile True: held.append(mmap.mmap(-1, 16 << 20)); held[-1].write(b'x' * (16 << 20))"
    counted = []
    memory = _sandbox_watch.memory
    _sandbox_watch.memory = lambda *of: counted.append(memory(*of)) or counted[-1]
    most = []
    for _ in range(5):
        argv = [sandbox.PYTHON, "-c", source]
        result = sandbox.run(argv, limits=sandbox.Limits(memory=limit, wall=20))
        assert result.ended == "memory"
        most.append(counted[-1])
    _sandbox_watch.memory = memory
    table(
        ["limit MiB", "held when it was stopped, MiB (5 runs)"],
        [(limit >> 20, ", ".join(str(m >> 20) for m in most))],
    )


if __name__ == "__main__":
    with Timer() as probe:
        held = sandbox.require()
    user = "root" if os.geteuid() == 0 else "a plain user"
    print(f"{machine()}; {versions()}; as {user}; {'+'.join(held)}")
    print(f"trying the layers, once a process: {probe.seconds * 1e3:.0f} ms\n")
    single()
    many()
    hog()
