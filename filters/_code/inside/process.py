"""Inside the sandbox: starts the processes that run untrusted code, and says how they ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import time

TYPE_CHECKING = False  # `typing` and `dataclasses` take longer to load than most code to run
if TYPE_CHECKING:
    from collections.abc import Callable

# Milliseconds between two looks at whether a process has ended whose output is still open.
_LOOK_MS = 10
# Bytes of stderr that are kept, of its end: where the message of an exception stands.
_TAIL = 2000
# Files are moved up there before they get their numbers.
_HIGH = 20
_STACK = 256 << 20


class Ending:
    """How a process ended.

    Attributes:
        ended: `exit`, `signal`, `cpu` (used up its processor time), `wall` (its time by the
            clock), or `output`.
        code: Exit status or signal.
        cpu: Seconds of processor time.
    """

    def __init__(self, ended: str, code: int, cpu: float) -> None:
        self.ended = ended
        self.code = code
        self.cpu = cpu


class Captured:
    """What a process wrote, and how it ended."""

    def __init__(self, ending: Ending, out: bytes, err: bytes) -> None:
        self.ending = ending
        self.out = out
        self.err = err


class Child:
    """A process that runs untrusted code.

    Attributes:
        pid: Its number.
        cpu: Whole seconds of processor time that it may use.
    """

    def __init__(self, pid: int, cpu: int) -> None:
        self.pid = pid
        self.cpu = cpu

    def end(self, kill: bool = True) -> Ending:
        """Kills it and all that it left behind, waits for it and says how it ended."""
        if kill:
            kill_all()
        _, status, used = os.wait4(self.pid, 0)
        return self._ending(status, used, kill)

    def ended(self) -> Ending | None:
        """How it ended, None while it runs."""
        pid, status, used = os.wait4(self.pid, os.WNOHANG)
        return self._ending(status, used, False) if pid else None

    def _ending(self, status: int, used: resource.struct_rusage, killed: bool) -> Ending:
        cpu = used.ru_utime + used.ru_stime
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return Ending("exit", code, cpu)
        # Whoever ignores the signal is killed a second later. The kernel counts ticks, and what it
        # says of a process may be less than what it stopped it for.
        if -code == signal.SIGXCPU or (-code == signal.SIGKILL and cpu > 0.8 * self.cpu):
            return Ending("cpu", -code, cpu)
        return Ending("wall" if killed and -code == signal.SIGKILL else "signal", -code, cpu)


def kill_all() -> None:
    """Kills every process of the sandbox but its first and this one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def fork(body: Callable[[], None], inherited: dict[int, int], cpu: int) -> Child:
    """Runs a function in a process that has nothing of this one but its memory.

    Args:
        body: What it does; its return ends the process.
        inherited: The files that it has: number there (small ones, without gaps) to number here.
            0, 1 and 2 are /dev/null where they are not among them.
        cpu: Whole seconds of processor time that it may use.
    """
    pid = os.fork()
    if pid:
        return Child(pid, cpu)
    status = 1
    try:
        os.setsid()
        nothing = fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD, _HIGH)
        high = {there: fcntl.fcntl(here, fcntl.F_DUPFD, _HIGH) for there, here in inherited.items()}
        for there in (0, 1, 2):
            high.setdefault(there, nothing)
        for there, here in high.items():
            os.dup2(here, there)
        os.closerange(max(high) + 1, 1 << 16)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
        body()
        status = 0
    finally:
        os._exit(status)


def raise_stack() -> None:
    """Lets the program that follows recurse as deeply as judges of contests do."""
    with contextlib.suppress(ValueError, OSError):  # where less is allowed it stays as it is
        most = resource.getrlimit(resource.RLIMIT_STACK)[1]
        resource.setrlimit(resource.RLIMIT_STACK, (_STACK, most))


def capture(child: Child, out: int, err: int, most: int, deadline: float) -> Captured:
    """Reads what a process writes until it has ended, and ends it at a limit.

    Args:
        child: The process.
        out: The reading end of its stdout; closed here, as is the next.
        err: Of its stderr.
        most: Bytes of stdout that are read.
        deadline: When it is killed, by `time.monotonic`.
    """
    read = {out: bytearray(), err: bytearray()}
    poll = select.poll()
    for file in read:
        poll.register(file, select.POLLIN)
    still_open = len(read)
    ending: Ending | None = None
    while still_open:
        if ending is None and time.monotonic() >= deadline:
            ending = child.end()
        for file, _ in poll.poll(_LOOK_MS):
            piece = os.read(file, 1 << 16)
            if not piece:
                poll.unregister(file)
                still_open -= 1
            elif len(read[out]) <= most:
                read[file] += piece
        del read[err][:-_TAIL]
        if ending is None and len(read[out]) > most:
            used = child.end()
            ending = Ending("output", used.code, used.cpu)
        if ending is None and (ending := child.ended()) is not None:
            kill_all()  # what it left behind holds the pipes open
    while ending is None:
        if (ending := child.ended()) is None:
            if time.monotonic() >= deadline:
                ending = child.end()
            time.sleep(0.0005)
    kill_all()
    for file in read:
        os.close(file)
    return Captured(ending, bytes(read[out][:most]), bytes(read[err]))
