"""The command line that puts a program into its sandbox."""

from __future__ import annotations

import os
import random
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """What one run may use."""

    wall: float = 10  # seconds by the clock
    cpu: int | None = None  # seconds of processor time of each process; None: no limit but `wall`
    memory: int = 512 << 20  # bytes that all processes may hold together, and that one may allocate
    disk: int = 64 << 20  # bytes in /tmp, all that can be written; they are memory beside `memory`
    entries: int = 10_000  # files and folders there
    output: int = 1 << 20  # bytes of stdout and stderr together
    processes: int = 32  # processes and threads at one time
    files: int = 64  # open files of each process


@cache
def mounts() -> tuple[str, ...]:
    """Return bubblewrap's options for every run: namespaces and what can be seen."""
    flags = "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try"
    flags += " --die-with-parent --new-session --hostname sandbox --clearenv --cap-drop ALL"
    if os.geteuid() == 0:
        flags += " --cap-add CAP_SETUID --cap-add CAP_SETGID"  # for `begin`, which drops
    else:
        flags += " --unshare-user --uid 65534 --gid 65534"
    options = flags.split()
    variables = {
        "PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8",
        # The order of a set of texts must not change from run to run.
        "PYTHONHASHSEED": "0",
    }  # fmt: skip
    for name, value in variables.items():
        options += ["--setenv", name, value]
    # What bubblewrap makes on the way to a mount, it makes for its own user alone.
    for name in ("/dev", "/etc"):
        options += ["--perms", "0755", "--dir", name]
    options += ["--ro-bind", "/usr", "/usr"]
    for name in ("lib", "lib32", "lib64", "bin", "sbin"):
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    for name in ("/etc/alternatives", "/etc/ld.so.cache"):
        options += ["--ro-bind-try", name, name]
    prefix = Path(os.path.realpath(sys.base_prefix))
    if not prefix.is_relative_to("/usr"):
        # Folders above it may be closed to others; those in here are empty and need not be.
        for parent in reversed(prefix.parents[:-1]):
            options += ["--perms", "0755", "--dir", str(parent)]
        options += ["--ro-bind", str(prefix), str(prefix)]
    # No /proc: it tells of the host, and opens doors between processes of one user.
    for name in ("null", "zero", "full", "random", "urandom"):
        options += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    options += ["--symlink", "/tmp", "/dev/shm"]
    # Many programs read their input by this name; without /proc it is a file that a caller puts.
    options += ["--symlink", "/tmp/stdin", "/dev/stdin"]
    return tuple(options)


def begin() -> list[str]:
    """Return the command that begins: it becomes what follows, as a user who is nobody.

    It writes an empty line to stderr first. Where the caller has died meanwhile, that is its end:
    bubblewrap dies with its caller, but for a moment at the start its child does not with it.

    Root is given away for a user of whom there is no other process, since the kernel counts
    processes by user and does not count root's.
    """
    begun = ["sh", "-c", 'echo >&2; exec "$@"', "sh"]
    if os.geteuid() != 0:
        return begun
    last = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()[-1].split()
    end = min(int(last[0]) + int(last[2]), 1 << 31)
    user = random.SystemRandom().randrange(end // 2, end)
    return [*begun, "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]


def rlimits(limits: Limits) -> list[str]:
    """Return the command that sets limits on itself and becomes what follows.

    Data and not address space: engines such as V8 reserve far more than they use.
    """
    command = ["prlimit", f"--data={limits.memory}", f"--fsize={limits.disk}", "--core=0"]
    command += [f"--nofile={limits.files}", f"--nproc={limits.processes}", "--msgqueue=0"]
    if limits.cpu is not None:
        command.append(f"--cpu={limits.cpu}:{limits.cpu + 1}")
    return [*command, "--"]
