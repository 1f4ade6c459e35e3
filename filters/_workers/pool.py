"""Processes for work that may hang, eat memory or crash: each call has a hard limit in wall time.

A worker is a Python process of its own at the end of a socket: pickled calls go in, results come
back, one at a time, so a call's limit covers no waiting in a queue. Nothing is shared between
workers. A call that reaches its limit has its process killed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

# Seconds that a fresh worker may take to import what it needs, before its first call begins.
_START_S = 60
# A worker that outlives its parent during a call ends itself so long after the call's limit.
_GRACE_S = 1
# Fresh processes now and then, in case the work leaks memory.
_CALLS_A_PROCESS = 20_000
_MEMORY = 2 << 30
_BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; from filters._workers.pool import serve; "
    "serve(int(sys.argv[1]))"
)


def longest(limit: float) -> float:
    """Seconds that a call with this limit may take at most: twice, and a start in between."""
    return 2 * limit + _START_S + 10


class WorkerLost(Exception):
    """The worker ended before its call did: killed for memory, crashed, or unable to start."""


class CallFailed(Exception):
    """The function raised in the worker; the text begins with the name of what it raised."""


class Workers:
    """A set of worker processes, started at the first call and restarted when they die.

    Each runs `prepare`, a function that can be imported, as it starts. Safe to call from any thread
    and in any process, a daemon or a fork among them. Idle workers end when this process ends,
    however it ends; busy ones at the latest a second after the limit of their call.
    """

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare
        self._users = self._count = 0
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Starts with no process, as a fork has to: those that it knows of are not its own."""
        self._lock = threading.Lock()
        # The last one used comes first, so that no more processes start than work at a time.
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self._count):
            self._idle.put(None)

    def open(self, count: int) -> None:
        """Announces a user that wants so many workers; users share them."""
        with self._lock:
            self._users += 1
            for _ in range(count - self._count):
                self._idle.put(None)  # a place whose process starts when it is first needed
            self._count = max(self._count, count)

    def close(self) -> None:
        """Takes leave of one user; with the last one the processes end, busy ones after their call.

        A call after that starts them again.
        """
        with self._lock:
            self._users -= 1
            if self._users > 0:
                return
        idle = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for worker in idle:
            if worker is not None:
                worker.end()
            self._idle.put(None)

    def call(self, function: Callable[..., Any], *args: Any, limit: float) -> Any:
        """What `function(*args)` gives, in a worker.

        Raises:
            TimeoutError: It took longer than `limit` seconds; its process is killed.
            WorkerLost: Its process ended before it did.
            CallFailed: The function raised.
        """
        worker = self._idle.get()
        try:
            if worker is not None and not worker.spent():
                with contextlib.suppress(WorkerLost):
                    return worker.call(function, args, limit)
                # It may have died while idle, which is no fault of this call: once more, afresh.
            if worker is not None:
                worker.end()
            worker = _Worker(self._prepare)
            return worker.call(function, args, limit)
        except (TimeoutError, WorkerLost):
            if worker is not None:
                worker.end()
            raise
        finally:
            if self._users < 1 and worker is not None:
                worker.end()
            self._idle.put(worker)


class _Worker:
    """One process and this end of its socket."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno()), *map(str, sys.path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._pipe = Connection(ours.detach())
        self._calls = 0
        try:
            self._ask(prepare, (), 0.0, _START_S)
        except (CallFailed, TimeoutError, WorkerLost) as error:
            self.end()
            why = f": {error}" if isinstance(error, CallFailed) else ""
            raise WorkerLost(f"its process does not start{why}") from error

    def spent(self) -> bool:
        """Whether it is dead, or has had its share of calls; an idle one has nothing to say."""
        return self._pipe.closed or self._calls >= _CALLS_A_PROCESS or self._pipe.poll()

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], limit: float) -> Any:
        self._calls += 1
        return self._ask(function, args, limit, limit)

    def _ask(
        self, function: Callable[..., Any], args: tuple[Any, ...], alarm: float, limit: float
    ) -> Any:
        try:
            self._pipe.send((function, args, alarm))
            if not self._pipe.poll(limit):
                raise TimeoutError
            done, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise WorkerLost(f"its process ended with status {self._status()}") from error
        if not done:
            raise CallFailed(value)
        return value

    def _status(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(1)
        return None

    def end(self) -> None:
        """Kills the process and waits for it; a process that is killed ends at once."""
        self._pipe.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)


def serve(descriptor: int) -> None:
    """The life of a worker: answers calls until the other end of the socket is closed."""
    pipe = Connection(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to hear
    # Not Python's handler, which waits for the interpreter: a big multiplication holds that.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, OSError, ValueError):
        pass  # not on this system; the limit in time still holds
    while True:
        try:
            function, args, limit = pipe.recv()
        except (EOFError, ConnectionError):
            return
        # Where nobody is left to kill this process, the system does.
        signal.setitimer(signal.ITIMER_REAL, limit + _GRACE_S if limit else 0)
        try:
            reply = (True, function(*args))
        except BaseException as error:
            reply = (False, f"{type(error).__name__}: {str(error)[:200]}")
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            pipe.send(reply)
        except ConnectionError:
            return
