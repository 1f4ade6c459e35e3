"""One run of a program under given layers of the sandbox, held to its limits while it runs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from subprocess import PIPE, Popen
from typing import Literal

from filters._sandbox import seccomp, usage
from filters._sandbox.command import Limits, begin, mounts, rlimits

Ended = Literal["ok", "exit", "signal", "time", "memory", "output", "disk"]

# Seconds between two looks at the memory.
_LOOK_S = 0.02
# Seconds that a sandbox may take to disappear after it was killed.
_GONE_S = 5
_PIECE = 1 << 16
# What stands on stderr before anything else, see `begin`.
_BEGUN = b"\n"
_BY_SIGNAL: dict[int, Ended] = {signal.SIGXFSZ: "disk", signal.SIGXCPU: "time"}


@dataclass(frozen=True)
class Result:
    """How a run ended, and what it wrote, cut at the limit."""

    ended: Ended  # `ok` (status 0), `exit` (another status), `signal`, or the limit that ended it
    code: int | None  # exit status or number of the signal; None where a limit ended it
    stdout: bytes
    stderr: bytes
    wall: float  # seconds by the clock, set-up included
    tier: str  # the layers that held, joined by `+`


class SandboxFailed(Exception):
    """The sandbox itself did not start; this says nothing of the program."""


def run_under(
    argv: list[str],
    files: Mapping[str, bytes],
    stdin: bytes,
    limits: Limits,
    held: tuple[str, ...],
) -> Result:
    """Run a program under these layers; see `filters._sandbox.sandbox.run`."""
    start = time.monotonic()
    if (bubblewrap := shutil.which("bwrap")) is None:
        raise SandboxFailed("bubblewrap is not installed")
    with contextlib.ExitStack() as stack:
        for_stdin = _sealed(stdin)
        stack.callback(os.close, for_stdin)
        # Files that bubblewrap reads and closes; what else it were given the program would have.
        lent: list[int] = []

        def lend(content: bytes) -> int:
            lent.append(_sealed(content))
            stack.callback(os.close, lent[-1])
            return lent[-1]

        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        command = [bubblewrap, "--json-status-fd", str(writing)]
        # First of all mounts: the interpreter may lie in a folder below.
        command += ["--perms", "1777", "--size", str(limits.disk), "--tmpfs", "/tmp"]
        command += mounts()
        for name, content in files.items():
            command += ["--perms", "0755", "--file", str(lend(content)), f"/tmp/{name}"]
        if "seccomp" in held:
            command += ["--seccomp", str(lend(seccomp.program() or b""))]
        command += ["--remount-ro", "/", "--chdir", "/tmp", "--", *begin()]
        if "rlimits" in held:
            command += rlimits(limits)
        lent.append(writing)
        try:
            process = Popen(
                command + argv, stdin=for_stdin, stdout=PIPE, stderr=PIPE, pass_fds=lent, env={}
            )
        except OSError as error:
            raise SandboxFailed(f"bubblewrap does not start ({error})") from error
        finally:
            os.close(writing)
        with process, contextlib.closing(_Watched(process, reading, limits, held)) as watched:
            try:
                watched.follow(start + limits.wall)
            finally:
                watched.kill()
                process.kill()  # an interrupted caller does not wait
    return watched.result(time.monotonic() - start, "+".join(held))


class _Watched:
    """What reads what a sandbox writes, and ends it at the first limit that it meets."""

    def __init__(
        self, process: Popen[bytes], status: int, limits: Limits, held: tuple[str, ...]
    ) -> None:
        self.read = {"stdout": bytearray(), "stderr": bytearray(), "status": bytearray()}
        self._process = process
        self._status = status
        self._limits = limits
        self._memory = "memory" in held
        self._ended: Ended | None = None
        # The first process in there, once it is known; a handle, since numbers are used again.
        self._first: int | None = None
        self._handle: int | None = None

    def follow(self, deadline: float) -> None:
        """Wait for the end of all in there; raise `SandboxFailed` where a kill does not end it."""
        with selectors.DefaultSelector() as selector:
            files = (self._process.stdout, self._process.stderr, self._status)
            for file, name in zip(files, self.read, strict=True):
                assert file is not None
                selector.register(file, selectors.EVENT_READ, name)
            look = 0.0
            # All three are closed once the last process in there has gone.
            while selector.get_map():
                now = time.monotonic()
                if self._ended is None and (over := self._over(now >= deadline, now >= look)):
                    self._ended = over
                    deadline = now + _GONE_S
                if self._ended is not None:
                    if now >= deadline:
                        raise SandboxFailed("a sandbox that was killed does not end")
                    self.kill()
                look = now + _LOOK_S if now >= look else look
                for key, _ in selector.select(max(0.0, min(deadline - now, _LOOK_S))):
                    piece = os.read(key.fd, _PIECE)
                    if not piece:
                        selector.unregister(key.fileobj)
                    elif self._ended is None or key.data == "status":
                        self.read[key.data] += piece
                    if key.data == "status" and self._first is None:
                        self._find_first()

    def _over(self, late: bool, look: bool) -> Ended | None:
        """Return the limit that it has passed, None if none."""
        if late:
            return "time"
        if len(self.read["stdout"]) + len(self.read["stderr"]) > self._limits.output + len(_BEGUN):
            return "output"
        if not (self._memory and look) or self._first is None:
            return None
        if usage.memory(self._first, self._limits.memory) > self._limits.memory:
            return "memory"
        # Until it has begun, what it has for a root is still the host's.
        begun = self.read["stderr"].startswith(_BEGUN)
        if begun and usage.files(self._first) > self._limits.entries:
            return "disk"
        return None

    def _find_first(self) -> None:
        self._first = self._status_value("child-pid")
        if self._first is not None:
            with contextlib.suppress(ProcessLookupError):
                self._handle = os.pidfd_open(self._first)

    def kill(self) -> None:
        """End the sandbox: with its first process all in there die, and bubblewrap ends.

        Bubblewrap itself is not killed: nobody would then reap what is inside. Nor before it has
        told the number of that process, which may not yet have asked to die with it.
        """
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def close(self) -> None:
        """Give back what it holds."""
        if self._handle is not None:
            os.close(self._handle)

    def result(self, wall: float, tier: str) -> Result:
        """Return how it ended; raise `SandboxFailed` where the program was not even started."""
        out, err = bytes(self.read["stdout"]), bytes(self.read["stderr"])
        if not err.startswith(_BEGUN) and self._ended is None:
            message = err[-300:].decode("utf-8", "replace").strip()
            raise SandboxFailed(message or "bubblewrap ended without a word")
        out = out[: self._limits.output]
        err = err.removeprefix(_BEGUN)[: self._limits.output - len(out)]
        ended, code = self._ended, None
        if ended is None:
            if (code := self._status_value("exit-code")) is None:
                raise SandboxFailed("bubblewrap was killed")
            ended = "exit" if code else "ok"
            if code > 128:
                code -= 128
                ended = _BY_SIGNAL.get(code, "signal")
        return Result(ended, code, out, err, wall, tier)

    def _status_value(self, key: str) -> int | None:
        """Return a figure that bubblewrap told of the sandbox, a JSON object a line."""
        for line in self.read["status"].splitlines():
            with contextlib.suppress(ValueError):
                if (value := json.loads(line).get(key)) is not None:
                    return int(value)
        return None


def _sealed(content: bytes) -> int:
    """Return a file in memory that nobody can change or make grow, read from its start."""
    file = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]
    os.lseek(file, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file
