"""Pool of processes: they judge chunks with the filters that need nothing but the record.

A process that dies, or sits over one record for too long and is killed for it, costs that record
under that filter and nothing else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, cast

from filters.base import Context
from filters.engine.chain import Chain
from filters.engine.chunks import Chunk, read_chunk
from filters.engine.filter import Filter, Outcome, failed
from filters.engine.outcome_store import pack
from synth.core.errors import DistillError

# Seconds that a filter may take over one record; one that limits itself says how long that is.
LIMIT_S = 120.0
_STARTS = 3  # a process that dies before it judged anything is started so often


# What a process gives of a chunk: for each filter its packed outcomes and seconds, and its notes.
Judged = tuple[dict[str, tuple[bytes, float]], dict[str, list[str]]]


@dataclass(frozen=True)
class Job:
    """A chunk to be judged, by the filters of these names."""

    chunk: Chunk
    names: frozenset[str]
    # Rows that cost a process its life, under which filter, and how.
    failed: dict[tuple[int, str], str] = field(default_factory=dict)


@dataclass
class _Worker:
    process: Any
    position: Any  # the row and the filter that it is at, in shared memory
    job: Job
    ready: bool = False


def judge_chunks(
    jobs: list[Job], filters: Sequence[Filter], make_context: Callable[[], Context], workers: int
) -> Iterator[tuple[Job, Judged]]:
    """Judges chunks in several processes; yields them as they are done, in any order.

    Filters are loaded anew in each process, and `make_context`, which is pickled, makes what they
    are handed there.

    Raises:
        DistillError: As a filter raised it.
        RuntimeError: Processes die before they judge anything.
    """
    waiting = deque(jobs)
    team: dict[Connection, _Worker] = {}
    dead_starts = 0
    try:
        while waiting or team:
            while waiting and len(team) < workers:
                pipe, worker = _start(filters, make_context, waiting.popleft())
                team[pipe] = worker
            for pipe in cast("list[Connection]", wait(list(team))):
                worker = team[pipe]
                try:
                    reply = pipe.recv()
                except (EOFError, OSError):
                    del team[pipe]
                    worker.process.join()
                    dead_starts = 0 if worker.ready else dead_starts + 1
                    if dead_starts >= _STARTS:
                        raise RuntimeError(
                            f"processes of the filters die as they start {_how(worker)}"
                        ) from None
                    waiting.appendleft(_without_cause(worker, filters))
                    continue
                if isinstance(reply, BaseException):
                    raise reply
                if reply is None:
                    worker.ready = True
                    continue
                yield worker.job, reply
                if waiting:
                    worker.job = waiting.popleft()
                    pipe.send(worker.job)
                else:
                    del team[pipe]
                    pipe.close()
                    worker.process.join()
    finally:
        for worker in team.values():
            worker.process.kill()
            worker.process.join()


def _start(
    filters: Sequence[Filter], make_context: Callable[[], Context], job: Job
) -> tuple[Connection, _Worker]:
    spawn = multiprocessing.get_context("spawn")
    pipe, child_pipe = spawn.Pipe()
    position = spawn.RawArray("q", [-1, -1])
    process = spawn.Process(target=_work, args=(child_pipe, position, filters, make_context))
    with _no_main():
        process.start()
    child_pipe.close()
    pipe.send(job)
    return pipe, _Worker(process, position, job)


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Hides the main module from a process that is about to start.

    A spawned process runs its parent's main script once more. Nothing of it is needed, and a script
    without an `if __name__ == "__main__"` would start itself over.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _without_cause(worker: _Worker, filters: Sequence[Filter]) -> Job:
    """The job of a dead process, with what it died of left out."""
    job = worker.job
    row, index = worker.position
    if row < 0:
        return job
    name = filters[index].name
    return replace(job, failed={**job.failed, (row, name): f"its process died {_how(worker)}"})


def _how(worker: _Worker) -> str:
    code = worker.process.exitcode
    if code == -signal.SIGALRM:
        return "(it took too long over this record)"
    return f"(status {code})" if code >= 0 else f"({signal.Signals(-code).name})"


def _work(
    pipe: Connection, position: Any, filters: Sequence[Filter], make_context: Callable[[], Context]
) -> None:
    """A process: judges the jobs that come, until the pipe is closed."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # kills also where Python does not get to run
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    names: frozenset[str] = frozenset()
    chain = Chain([], Context())
    with contextlib.suppress(EOFError, OSError):
        while True:
            job: Job = pipe.recv()
            try:
                if not job.names <= names:  # also where a later chunk lacks more than the first
                    names |= job.names
                    chain.close()
                    chain = Chain([f for f in filters if f.name in names], make_context())
                    pipe.send(None)
                pipe.send(_judge(job, filters, chain, position))
            except DistillError as error:
                pipe.send(error)
            except (EOFError, OSError):
                raise
            except Exception as error:
                pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
    chain.close()
    os._exit(0)  # whatever threads a filter has left


def _judge(job: Job, filters: Sequence[Filter], chain: Chain, position: Any) -> Judged:
    outcomes: dict[str, list[Outcome | None]] = {name: [] for name in job.names}
    seconds = dict.fromkeys(job.names, 0.0)
    indices = {loaded.name: index for index, loaded in enumerate(filters)}
    limits = {loaded.name: loaded.limit or LIMIT_S for loaded in filters}
    for row, record in enumerate(read_chunk(job.chunk)):
        for loaded, check in chain.checks:
            name = loaded.name
            if name not in outcomes:
                continue
            if why := job.failed.get((row, name)):
                outcomes[name].append(failed(why))
                continue
            position[0], position[1] = row, indices[name]
            start = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, limits[name])
            outcomes[name].append(loaded.judge(check, record))
            seconds[name] += time.perf_counter() - start
    signal.setitimer(signal.ITIMER_REAL, 0)
    position[0] = -1
    packed = {name: (pack(rows), seconds[name]) for name, rows in outcomes.items()}
    return packed, chain.notes
