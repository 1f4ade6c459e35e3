"""Processes for work that may hang, eat memory or crash: each call has a hard limit in wall time.

Each worker is a `pebble` pool of one process. Nothing is shared between workers (a pool of many
shares one pipe behind locks, which a process that is killed at the wrong moment takes with it), and
a call has its worker for itself, so its limit covers no waiting in a queue.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any

# Seconds that a fresh worker may take to import what it needs, before its first call begins.
_START_S = 60
# A worker that outlives its parent during a call ends itself so long after the call's limit.
_GRACE_S = 1
# Fresh processes now and then, in case the work leaks memory.
_CALLS_A_PROCESS = 5_000
_MEMORY = 2 << 30


class WorkerLost(Exception):
    """The worker ended before its call did: killed for memory, crashed, or unable to start."""


class Workers:
    """A set of worker processes, started at the first call and restarted when they die.

    Safe to call from any thread. Idle workers end when this process ends, however it ends; busy
    ones at the latest a second after the limit of their call.

    Args:
        prepare: Run once in each worker as it starts; a function that can be imported.
    """

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare
        self._users = 0
        self._count = 0
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Starts with no process, as a fork has to: those that it knows of are not its own."""
        self._lock = threading.Lock()
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
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
        for _ in range(self._idle.qsize()):
            try:
                _end(self._idle.get_nowait())
            except queue.Empty:
                break
            self._idle.put(None)

    def call(self, function: Callable[..., Any], *args: Any, limit: float) -> Any:
        """What `function(*args)` gives, in a worker.

        Raises:
            TimeoutError: It took longer than `limit` seconds; its process is killed.
            WorkerLost: Its process ended before it did.
            Exception: Whatever the function raised.
        """
        pool = self._idle.get()
        try:
            # A worker that died while idle shows only now, and is no fault of this call.
            for _ in range(2):
                if pool is None:
                    pool = self._start()
                try:
                    return self._call_in(pool, function, args, limit)
                except (BrokenProcessPool, _NotActive):
                    _end(pool)
                    pool = None
            raise WorkerLost("its process does not start")
        except WorkerLost:
            _end(pool)
            pool = None
            raise
        finally:
            if self._users < 1:
                _end(pool)
                pool = None
            self._idle.put(pool)

    def _call_in(
        self, pool: Any, function: Callable[..., Any], args: tuple[Any, ...], limit: float
    ) -> Any:
        from pebble import ProcessExpired

        try:
            future = pool.schedule(_timed, args=(function, args, limit), timeout=limit)
        except RuntimeError as error:
            raise _NotActive from error
        try:
            return future.result(timeout=_START_S + limit)
        except ProcessExpired as error:
            raise WorkerLost(f"its process ended with status {error.exitcode}") from error
        except TimeoutError as error:
            if future.done():
                raise
            raise WorkerLost("its process gives no answer") from error

    def _start(self) -> Any:
        from pebble import ProcessPool

        return ProcessPool(
            max_workers=1,
            max_tasks=_CALLS_A_PROCESS,
            initializer=_begin,
            initargs=(self._prepare,),
            context=_Context(),
        )


class _NotActive(Exception):
    """The pool takes no more calls."""


def _end(pool: Any) -> None:
    """Stops a pool without waiting for its threads."""
    if pool is not None:
        pool.stop()
        threading.Thread(target=pool.join, daemon=True).start()


def _begin(prepare: Callable[[], None]) -> None:
    """First thing in a worker."""
    # Python's own handlers wait for the interpreter, which a big multiplication holds for minutes.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, OSError, ValueError):
        pass  # not on this system; the limit in time still holds
    prepare()


def _timed(function: Callable[..., Any], args: tuple[Any, ...], limit: float) -> Any:
    """Runs a call so that the system ends the process even where nobody is left to kill it."""
    signal.setitimer(signal.ITIMER_REAL, limit + _GRACE_S)
    try:
        return function(*args)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


_starting = threading.Lock()


@contextmanager
def _no_main() -> Iterator[None]:
    """Hides the main module from a process that is about to start.

    A spawned process runs its parent's main script once more, to find what is defined there. The
    workers need nothing from it, and a script without an `if __name__ == "__main__"` would start
    itself over in each of them.
    """
    with _starting:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: multiprocessing.process.BaseProcess) -> Any:
        with _no_main():
            return SpawnProcess._Popen(process_obj)


class _Context(SpawnContext):
    Process = _Process
