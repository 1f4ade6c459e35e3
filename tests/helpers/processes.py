"""Processes of the command line that tests begin, wait for and kill."""

import signal
import subprocess
import time

from tests.helpers import forked_python


def generation(folder, config):
    """Begins `distill generate` as a process of its own."""
    return forked_python.Popen(
        ["-m", "synth", "generate", config],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(what, seconds=30):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def kill(process):
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.communicate()
