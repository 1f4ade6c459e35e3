"""Ends processes that must not outlive this one, even where this one is killed with no warning.

A guard is a process of its own that reads a pipe. The pipe ends with the process at its other end,
however that dies; then the guard kills what it was told to watch. (PR_SET_PDEATHSIG comes when the
thread ends that started the child, and does not reach grandchildren.)
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator


class Guard:
    """Watches processes for as long as it is not closed; `close` ends those that are left."""

    def __init__(self) -> None:
        # In a session of its own, so that no Ctrl-C on the terminal ends it.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        self._lock = threading.Lock()

    def watch(self, pid: int) -> None:
        """Take in a process: it, what descends from it, and its process group if it leads one."""
        self._say(f"+{pid}\n")

    def forget(self, pid: int) -> None:
        """Leave a process out again that has ended; its number may become another's."""
        self._say(f"-{pid}\n")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def close(self) -> None:
        """Kill what is still watched, and return when that is done."""
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def kill_all(pid: int) -> None:
    """Kill a process, all that descends from it, and its process group where it leads one."""
    parents = dict(_parents())
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    # A group keeps its number while it has members, so this reaches those whose leader is gone.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(member, signal.SIGKILL)


def _parents() -> Iterator[tuple[int, int]]:
    """Yield every process with its parent; nothing where there is no /proc."""
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                # The name, in brackets, may hold anything; what follows the last one is fixed.
                yield int(entry), int(file.read().rpartition(b")")[2].split()[1])


def _stand_guard() -> None:
    parent, watched, buffer = os.getppid(), set[int](), b""
    # The pipe stays open where a child of the parent's holds it too, so its death is looked for.
    while os.getppid() == parent:
        if not select.select([0], [], [], 1.0)[0]:
            continue
        read = os.read(0, 4096)
        if not read:
            break
        *lines, buffer = (buffer + read).split(b"\n")
        for line in lines:
            (watched.add if line[:1] == b"+" else watched.discard)(int(line[1:]))
    for pid in watched:
        kill_all(pid)


if __name__ == "__main__":
    _stand_guard()
