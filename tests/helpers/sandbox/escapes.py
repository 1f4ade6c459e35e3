"""Programs that try to get out of the sandbox, and what the host looks like after each.

A program prints ESCAPED where it got what it wanted. What the host can see for itself (canary files,
listeners, a victim process, what is left over) is looked at there. Run as a script it tries all of
them and prints a JSON object: what is wrong with each, an empty text where nothing is.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from filters._sandbox import sandbox
from filters._sandbox.run import run_under
from filters._sandbox.seccomp import CLONE, CLONE3, DENIED
from tests.helpers.sandbox.escape_programs import PRELUDE, PYTHON, C

# How an attempt may end, where that is not left open.
ENDS = {
    "take memory in many processes": {"memory"},
    "take shared memory": {"memory"},
    "fill the disk with empty files": {"disk"},
    "write without end": {"output"},
    "write errors without end": {"output"},
    "write a little without end": {"output"},
    "spin": {"time"},
    "sleep": {"time"},
    "spin in many processes": {"time"},
    "ignore the signal of its limit": {"time", "signal"},
    "stop itself": {"time"},
    "dump its core": {"signal"},
    "enter the kernel by the old door": {"signal"},
    "overflow the stack": {"signal", "memory"},
    "call mmap and never ask": {"exit", "memory"},
}
# What has to fail with the namespaces alone, too, should the filter of system calls have a hole.
WITHOUT_SECCOMP = {
    "connect by TCP", "connect by TCP to another address", "connect by IPv6", "send by UDP",
    "resolve a name", "connect to an abstract socket", "connect to a unix socket",
    "kill a process of the host",
}  # fmt: skip
LIMITS = sandbox.Limits(
    wall=1.5, cpu=1, memory=128 << 20, disk=16 << 20, processes=32, output=1 << 20
)
# For what another limit than time has to end, however slow the machine is.
PATIENT = replace(LIMITS, wall=90, cpu=90)
# Seconds in which a sandbox is gone after its limit.
END_S = 1.5
NAMES = [*PYTHON, *C, *(f"{name}, without seccomp" for name in sorted(WITHOUT_SECCOMP))]


class Host:
    """What there is to be reached: files, listeners, a process."""

    def __init__(self):
        self.stack = contextlib.ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="canary-")))
        self.folder.chmod(0o755)
        self.secret = secrets.token_hex(16)
        self.name = f"canary-{secrets.token_hex(8)}"
        self.canary = self.folder / self.name
        self.canary.write_text(self.secret)
        self.canary.chmod(0o666)
        self.tcp = self.stack.enter_context(socket.create_server(("", 0)))
        self.udp = self.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.udp.bind(("", 0))
        self.path = self.folder / "socket"
        self.unix = [self.stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
        self.abstract = self.name
        for listener, address in zip(
            self.unix, (str(self.path), f"\0{self.abstract}"), strict=True
        ):
            listener.bind(address)
            listener.listen()
        self.path.chmod(0o777)
        for listener in (self.tcp, self.udp, *self.unix):
            listener.setblocking(False)
        self.victim = subprocess.Popen(["sleep", "300"])
        self.stack.callback(self.victim.wait)
        self.stack.callback(self.victim.kill)
        # An open file that a child would inherit, and a variable.
        self.open = os.open(self.canary, os.O_RDWR)
        os.set_inheritable(self.open, True)
        self.stack.callback(os.close, self.open)
        os.environ["SECRET_CANARY"] = self.secret
        self.calls = {name: numbers[_column()] for name, numbers in DENIED.items()}
        self.calls |= {"clone": CLONE[_column()], "clone3": CLONE3[_column()]}
        self.binaries = {name: self._compiled(source) for name, source in C.items()}

    def _compiled(self, source):
        if shutil.which("gcc") is None:
            return None
        target = self.folder / "program"
        argv = ["gcc", "-w", "-O0", "-x", "c", "-", "-o", str(target)]
        subprocess.run(argv, input=source.encode(), check=True)
        content = target.read_bytes()
        target.unlink()
        return content

    def touched(self):
        """What of it was reached, in words."""
        if self.canary.read_text() != self.secret:
            yield "the canary was written to"
        if self.victim.poll() is not None:
            yield "a process of the host was killed"
        for what, accept in (
            ("TCP", self.tcp.accept),
            ("UDP", lambda: self.udp.recv(99)),
            ("unix", self.unix[0].accept),
            ("abstract", self.unix[1].accept),
        ):
            try:
                accept()
                yield f"a listener was reached: {what}"
            except BlockingIOError:
                pass
        for folder in ("/usr", "/usr/bin", "/usr/lib", "/tmp", "/dev", "/etc"):
            if os.path.exists(f"{folder}/{self.name}"):
                yield f"a file was made in {folder}"
        if list(Path.cwd().glob("core*")):
            yield "a core was dumped"

    def survivors(self):
        """Processes that a program named after the canary, and that are still there."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if self.name.encode() in path.read_bytes().split(b"\0"):
                    yield int(path.parent.name)
            except OSError:
                continue

    def attempt(self, name):
        """Runs one of them; what is wrong, or an empty text."""
        name, _, without = name.partition(", without ")
        held = tuple(layer for layer in sandbox.require() if layer != without)
        # An attempt of a known end waits for it; without a layer, one waits for what it gets.
        timed = "time" in ENDS[name] if name in ENDS else not without
        limits = LIMITS if timed or (without and name in ENDS) else PATIENT
        start = time.monotonic()
        if name in C:
            if self.binaries[name] is None:
                return "skip: no compiler"
            result = run_under(["./program"], {"program": self.binaries[name]}, b"", limits, held)
        else:
            values = (
                str(self.canary), str(self.folder), self.tcp.getsockname()[1], _address(),
                self.udp.getsockname()[1], str(self.path), self.abstract, self.victim.pid,
            )  # fmt: skip
            start_of_it = PRELUDE.replace("{values!r}", repr(values)).replace(
                "{calls!r}", repr(self.calls)
            )
            source = start_of_it + PYTHON[name]
            argv = [sandbox.PYTHON, "-I", "-S", "-B", "program.py"]
            result = run_under(argv, {"program.py": source.encode()}, b"in", limits, held)
        said = result.stdout + result.stderr
        if b"ESCAPED" in said:
            return said.decode("utf-8", "replace")[-500:]
        if self.secret.encode() in said:
            return "the secret was read"
        if b"SyntaxError" in said or b"NameError" in said:
            return said.decode("utf-8", "replace")[-500:]  # a test that tests nothing
        if time.monotonic() - start > limits.wall + END_S:
            return f"took {time.monotonic() - start:.1f} s"
        if len(said) > LIMITS.output:
            return f"{len(said)} bytes of output"
        if result.ended not in ENDS.get(name, {"ok", "exit", "signal", "time", "memory", "disk"}):
            return f"ended by {result.ended} {result.code}: {said[-300:]!r}"
        return "; ".join(self.touched())


def _column():
    return 0 if os.uname().machine == "x86_64" else 1


def _address():
    """An address of this machine that is not loopback, where it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.2"


def attempt_all():
    """All attempts, two at a time: what is wrong by name, and under `left over` what outlived them."""
    host = Host()
    with host.stack:
        sandbox.require()
        with ThreadPoolExecutor(2) as pool:
            found = dict(zip(NAMES, pool.map(host.attempt, NAMES), strict=True))
        found["left over"] = str(left) if (left := list(host.survivors())) else ""
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    return found


if __name__ == "__main__":
    print(json.dumps(attempt_all()))
    sys.exit(0)
