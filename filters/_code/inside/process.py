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
    from typing import Any

    Report = dict[str, Any]

# Milliseconds between two looks at whether a process has ended whose output is still open.
_LOOK_MS = 10
# Bytes of stderr that are kept, of its end: where the message of an exception stands.
_TAIL = 2000
# Files are moved up there before they get their numbers.
_HIGH = 20
_STACK = 256 << 20


class Child:
    """A process that runs untrusted code, and how many seconds of processor time it may use."""

    def __init__(self, pid: int, cpu: int) -> None:
        self._pid = pid
        self._cpu = cpu

    def end(self, kill: bool = True) -> Report:
        """Kill it and all that it left behind, wait for it and report how it ended.

        `ended` is `exit`, `signal`, `cpu` (used up its processor time) or `wall` (its time by the
        clock); `code` is the exit status or the signal, `cpu` its seconds of processor time.
        """
        if kill:
            kill_all()
        _, status, used = os.wait4(self._pid, 0)
        return self._report(status, used, kill)

    def ended(self) -> Report | None:
        """Report how it ended; None while it runs."""
        pid, status, used = os.wait4(self._pid, os.WNOHANG)
        return self._report(status, used, False) if pid else None

    def _report(self, status: int, used: resource.struct_rusage, killed: bool) -> Report:
        cpu = used.ru_utime + used.ru_stime
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            ended = "exit"
        # Whoever ignores the signal is killed a second later. The kernel counts ticks, and what it
        # says of a process may be less than what it stopped it for.
        elif -code == signal.SIGXCPU or (-code == signal.SIGKILL and cpu > 0.8 * self._cpu):
            ended = "cpu"
        else:
            ended = "wall" if killed and -code == signal.SIGKILL else "signal"
        return {"ended": ended, "code": abs(code), "cpu": round(cpu, 2)}


def kill_all() -> None:
    """Kill every process of the sandbox but its first and this one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def fork(body: Callable[[], None], inherited: dict[int, int], cpu: int) -> Child:
    """Run a function in a process that has nothing of this one but its memory.

    It ends where the function returns, and may use `cpu` whole seconds of processor time. The files
    that it has are `inherited`: number there (small ones, without gaps) to number here; 0, 1 and 2
    are /dev/null where they are not among them.
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
    """Let the program that follows recurse as deeply as judges of contests do."""
    with contextlib.suppress(ValueError, OSError):  # where less is allowed it stays as it is
        hard_limit = resource.getrlimit(resource.RLIMIT_STACK)[1]
        resource.setrlimit(resource.RLIMIT_STACK, (_STACK, hard_limit))


def capture(child: Child, out: int, err: int, max_output: int, deadline: float) -> Report:
    """Report what a process writes until it has ended, and how; end it at a limit.

    `out` and `err` are the reading ends of its output, and closed here. It is killed over
    `max_output` bytes of stdout, and at `deadline` by `time.monotonic`.
    """
    read = {out: bytearray(), err: bytearray()}
    poll = select.poll()
    for file in read:
        poll.register(file, select.POLLIN)
    still_open = len(read)
    ending: Report | None = None
    while still_open:
        if ending is None and time.monotonic() >= deadline:
            ending = child.end()
        for file, _ in poll.poll(_LOOK_MS):
            piece = os.read(file, 1 << 16)
            if not piece:
                poll.unregister(file)
                still_open -= 1
            elif len(read[out]) <= max_output:
                read[file] += piece
        del read[err][:-_TAIL]
        if ending is None and len(read[out]) > max_output:
            ending = {**child.end(), "ended": "output"}
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
    texts = {"out": read[out][:max_output], "err": read[err]}
    return {**ending, **{name: text.decode("utf-8", "replace") for name, text in texts.items()}}
