"""What the scripts here share: each asks so many questions of a server and prints what it cost.

    python bench/peers/SCRIPT URL NUMBER IN_FLIGHT FOLDER [WAY]

A script imports all that it needs before the clock starts. The last line printed is JSON: how many
answers there were, seconds from the first question to the last answer kept, the CPU seconds used
before (imports), and versions. Runs in any environment: it needs the standard library alone.
"""

import json
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def question(number):
    return f"Question {number}: what is {number} plus {number + 1}? Think step by step."


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def drive(ask, *packages):
    """Runs `ask(url, number, in_flight, folder)`, which gives how many answers it got."""
    url, number, in_flight, folder = sys.argv[1:5]
    used = os.times()
    start = time.perf_counter()
    answers = ask(url, int(number), int(in_flight), Path(folder))
    seconds = time.perf_counter() - start
    installed = [f"{package} {number}" for package in packages if (number := _version(package))]
    figures = {
        "answers": answers,
        "seconds": seconds,
        "cpu_before": used.user + used.system,
        "versions": ", ".join([f"Python {platform.python_version()}", *installed]),
    }
    print("\n" + json.dumps(figures), flush=True)
