"""Runs a program that nobody trusts: no network, no files or processes of the host, bounded means.

Layers, each tried at the first use and named in every result:

    bwrap     bubblewrap: namespaces of its own for files, processes, network, users (or, as root,
              another uid without capabilities), a read-only /usr, one sized tmpfs
    seccomp   system calls that no such program needs are refused (`filters/_sandbox/seccomp.py`)
    rlimits   of each process: data, processor time, file size, open files, core dumps; and the
              number of processes
    memory    of all processes together, and files: counted from outside, killed over the limit

All have to hold; a caller can do without one of them by name, `bwrap` excepted.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Collection, Mapping
from functools import cache

from filters._sandbox import seccomp
from filters._sandbox.command import Limits
from filters._sandbox.run import Ended, Result, SandboxFailed, run_under
from synth.core.errors import UserError

__all__ = ["PYTHON", "Limits", "Result", "SandboxFailed", "lacking", "require", "run"]

# The interpreter that a sandbox has: this one, without its site-packages.
PYTHON = os.path.realpath(sys.executable)
_DEFAULT = Limits()


def run(
    argv: list[str],
    files: Mapping[str, bytes] | None = None,
    stdin: bytes = b"",
    limits: Limits = _DEFAULT,
    allow_without: Collection[str] = (),
) -> Result:
    """Run a program in a sandbox of its own and wait for it.

    It is looked for in /usr/bin. It starts in /tmp, which is empty but for `files` (content by
    plain file name), sees /usr and `PYTHON`, and nothing of it outlives the call. The layers of
    `allow_without` may be missing. Safe to call from any thread.

    Raises:
        UserError: Layers are missing on this machine.
        SandboxFailed: It did not start.
    """
    return run_under(argv, files or {}, stdin, limits, require(allow_without))


def require(allow_without: Collection[str] = ()) -> tuple[str, ...]:
    """Return the layers that hold.

    Raises:
        UserError: One that is needed does not hold; the message says which and why.
    """
    layers = _probed()
    failed = {name: why for name, why in layers.items() if why}
    missing = [f"{name}: {why}" for name, why in failed.items() if name not in allow_without]
    if layers["bwrap"]:  # nothing else is tried without it
        raise UserError(f"no sandbox to run untrusted code in (bwrap: {layers['bwrap']})")
    if missing:
        raise UserError(f"no sandbox to run untrusted code in ({'; '.join(missing)})")
    return tuple(name for name in layers if name not in failed)


def lacking(allow_without: Collection[str] = ()) -> str:
    """Return why there is no sandbox on this machine and how to get one, or an empty text."""
    try:
        require(allow_without)
    except UserError as error:
        return f"{error}; {_REMEDY}"
    return ""


_REMEDY = (
    "on Linux `apt-get install bubblewrap` (Debian, Ubuntu), `dnf install bubblewrap` (Fedora) or "
    "`pacman -S bubblewrap` (Arch) brings one; docs/filters/sandbox.md says what it needs"
)


@cache
def _probed() -> dict[str, str]:
    """Try each layer upon those before it; return why it does not hold, or an empty text."""
    layers: dict[str, str] = {}
    held: tuple[str, ...] = ()
    with tempfile.NamedTemporaryFile() as canary, socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        for name, (script, expected) in _PROBES.items():
            argv = [PYTHON, "-I", "-S", "-B", "-c", script, canary.name, port]
            if layers.get("bwrap"):
                layers[name] = "bwrap does not hold"
                continue
            if name == "seccomp" and seccomp.program() is None:
                layers[name] = "its system calls are not known for this kind of machine"
                continue
            limits = Limits(wall=20, memory=128 << 20, processes=12)
            try:
                result = run_under(argv, {}, b"", limits, (*held, name))
            except SandboxFailed as error:
                layers[name] = str(error)
                continue
            output = (result.stdout + result.stderr).decode("utf-8", "replace")
            output = "; ".join(output.split("\n")).strip("; ")
            holds = result.ended == expected and not output
            layers[name] = "" if holds else output or result.ended
            if holds:
                held = (*held, name)
    return layers


_PROBES: dict[str, tuple[str, Ended]] = {
    "bwrap": (
        """
import os, socket, sys
if os.path.exists(sys.argv[1]): print("it sees files of the host")
if os.getpid() > 9: print("it sees processes of the host")
if os.getuid() == 0: print("it is root")
for path in ("/x", "/usr/x", "/dev/x"):
    try: os.mkdir(path); print("it can write to", path)
    except OSError: pass
try: socket.create_connection(("127.0.0.1", int(sys.argv[2])), 1); print("it reaches the host")
except OSError: pass
""",
        "ok",
    ),
    "seccomp": (
        """
import os, socket
for name, call in (("socket", socket.socket), ("memfd_create", lambda: os.memfd_create("x"))):
    try: call(); print(name, "is not refused")
    except PermissionError: pass
""",
        "ok",
    ),
    "rlimits": (
        """
import os, resource, time
try: bytearray(200 << 20); print("memory is not limited")
except MemoryError: pass
if resource.getrlimit(resource.RLIMIT_CORE)[1]: print("core dumps are on")
for n in range(12):
    try:
        if not os.fork(): time.sleep(20)
    except OSError: break
else: print("the number of processes is not limited")
""",
        "ok",
    ),
    "memory": (
        """
import mmap, os, time
for n in range(4):
    if not os.fork():
        held = mmap.mmap(-1, 60 << 20)
        held.write(bytes(60 << 20))
        time.sleep(20)
time.sleep(20)
""",
        "memory",
    ),
}
