"""What the processes of a sandbox hold together, read from the host's /proc."""

from __future__ import annotations

import os

_HELD = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
_OWN_SHARE = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")


def memory(first: int, limit: int) -> int:
    """Return the bytes of memory (files' pages aside) that the processes of a sandbox hold.

    What loses its parent there becomes a child of its `first` process, so nothing leaves the tree.
    Pages that a fork shares are counted once for each process; only where that comes to more than
    `limit` are they counted by share, which takes the kernel longer.
    """
    processes = _tree(first)
    held = sum(_sum(f"/proc/{process}/status", _HELD) or 0 for process in processes)
    if held <= limit:
        return held
    total = 0
    for process in processes:
        share = _sum(f"/proc/{process}/smaps_rollup", _OWN_SHARE)
        # A process that hides its maps counts in full.
        total += share if share is not None else _sum(f"/proc/{process}/status", _HELD) or 0
    return total


def files(first: int) -> int:
    """Return how many files and folders a sandbox has in /tmp: each takes memory of the kernel."""
    try:
        tmp = os.statvfs(os.path.join("/proc", str(first), "root", "tmp"))
    except OSError:
        return 0  # it has just ended, or begun
    return tmp.f_files - tmp.f_ffree


def _tree(first: int) -> list[int]:
    """Return a process and its descendants, as far as they live while one looks."""
    processes = [first]
    for process in processes:  # grows while it runs
        try:
            for thread in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{thread}/children", "rb") as file:
                    processes.extend(map(int, file.read().split()))
        except OSError:
            continue  # it ended in the meantime
    return processes


def _sum(path: str, fields: tuple[bytes, ...]) -> int | None:
    """Return the sum of some kilobyte fields of a file in bytes; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(fields))
