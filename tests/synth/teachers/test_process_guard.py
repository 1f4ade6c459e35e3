"""A guard ends what it watches, however the process that holds it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from synth.teachers._vllm.process_guard import Guard, kill_all

# A child that starts a grandchild, and prints both numbers.
FAMILY = "import subprocess, os; p = subprocess.Popen(['sleep', '100']); print(os.getpid(), p.pid, flush=True); p.wait()"
HOLDER = f"""
import subprocess, sys, time
from synth.teachers._vllm.process_guard import Guard
guard = Guard()
child = subprocess.Popen([sys.executable, "-c", {FAMILY!r}], start_new_session=sys.argv[1] == "group")
guard.watch(child.pid)
time.sleep(100)
"""


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def gone(pids, seconds=10):
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


def family(**how):
    process = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, **how)
    return process, [int(pid) for pid in process.stdout.readline().split()]


@pytest.mark.parametrize("kind", ["group", "child"])
def test_what_is_watched_ends_when_its_holder_is_killed(kind):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, kind], stdout=subprocess.PIPE)
    pids = [int(pid) for pid in holder.stdout.readline().split()]
    time.sleep(0.3)  # the guard reads what it is to watch
    assert all(map(alive, pids))
    holder.kill()
    holder.wait()
    assert gone(pids)


def test_closing_ends_what_is_watched_and_spares_what_is_forgotten():
    guard = Guard()
    (_, watched), (spared_process, spared) = family(), family()
    guard.watch(watched[0])
    guard.watch(spared[0])
    guard.forget(spared[0])
    guard.close()
    assert gone(watched)
    assert all(map(alive, spared))
    kill_all(spared[0])
    spared_process.wait()
    assert gone(spared)


def test_a_group_ends_even_where_its_leader_is_gone():
    leader, (_, child) = family(start_new_session=True)
    os.kill(leader.pid, signal.SIGKILL)
    leader.wait()
    assert alive(child)
    kill_all(leader.pid)
    assert gone([child])
