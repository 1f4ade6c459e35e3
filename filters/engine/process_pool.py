"""Processes that judge pieces of a data set with the filters that need nothing but the record.

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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, NamedTuple

from filters.base import Context
from filters.engine.chain import Chain
from filters.engine.chunks import Chunk, read_piece
from filters.engine.filter import Filter, FilterSpec, Outcome, failed, load_filters
from filters.engine.outcome_store import pack
from synth.core.errors import DistillError

# Seconds that a filter may take over one record; one that limits itself says how long that is.
LIMIT_S = 120.0
_STARTS = 3  # a process that dies before it judged anything is started so often


class Judged(NamedTuple):
    """What came of a piece: for each filter its packed outcomes and seconds, and its notes."""

    job: Job
    outcomes: dict[str, tuple[bytes, float]]
    notes: dict[str, list[str]]


@dataclass(frozen=True)
class Job:
    """A piece to be judged.

    Attributes:
        piece: Which records.
        names: The filters that judge it.
        failed: Rows of it that cost a process its life, under which filter, and how.
    """

    piece: Chunk
    names: frozenset[str]
    failed: dict[tuple[int, str], str] = field(default_factory=dict)


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    place: Any  # the row and the filter that it is at, in shared memory
    job: Job | None = None
    ready: bool = False


def judge_pieces(
    jobs: Iterable[Job],
    specs: list[FilterSpec],
    make_context: Callable[[], Context],
    workers: int,
) -> Iterator[Judged]:
    """Judges pieces in several processes; yields them as they are done, in any order.

    Args:
        jobs: Taken one by one as processes fall free.
        specs: All filters of the config, by whose names the jobs go.
        make_context: Makes what filters are handed, in each process; it is pickled.
        workers: How many processes.

    Raises:
        DistillError: As a filter raised it.
        RuntimeError: Processes die before they judge anything.
    """
    waiting = iter(jobs)
    again: deque[Job] = deque()
    team: list[_Worker] = []
    dead_starts = 0
    try:
        while True:
            while len(team) < workers and (job := _next(again, waiting)):
                team.append(_start(specs, make_context, job))
            if not team:
                return
            for pipe in wait([worker.pipe for worker in team]):
                worker = next(one for one in team if one.pipe is pipe)
                try:
                    said = worker.pipe.recv()
                except (EOFError, OSError):
                    team.remove(worker)
                    worker.process.join()
                    dead_starts = 0 if worker.ready else dead_starts + 1
                    if dead_starts >= _STARTS:
                        raise RuntimeError(
                            f"processes of the filters die as they start {_how(worker)}"
                        ) from None
                    again.append(_blamed(worker, specs))
                    continue
                if isinstance(said, BaseException):
                    raise said
                if said is None:
                    worker.ready = True
                    continue
                assert worker.job is not None
                yield Judged(worker.job, *said)
                worker.job = _next(again, waiting)
                if worker.job is None:
                    team.remove(worker)
                    worker.pipe.close()
                    worker.process.join()
                else:
                    worker.pipe.send(worker.job)
    finally:
        for worker in team:
            worker.process.kill()
            worker.process.join()


def _next(again: deque[Job], waiting: Iterator[Job]) -> Job | None:
    return again.popleft() if again else next(waiting, None)


def _start(specs: list[FilterSpec], make_context: Callable[[], Context], job: Job) -> _Worker:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    place = spawn.RawArray("q", [-1, -1])
    process = spawn.Process(target=_work, args=(theirs, place, specs, make_context))
    with _no_main():
        process.start()
    theirs.close()
    ours.send(job)
    return _Worker(process, ours, place, job)


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


def _blamed(worker: _Worker, specs: list[FilterSpec]) -> Job:
    """The job of a dead process, with what it died of left out."""
    job = worker.job
    assert job is not None
    row, at = worker.place
    if row < 0:
        return job
    name = load_filters(specs)[at].name
    return replace(job, failed={**job.failed, (row, name): f"its process died {_how(worker)}"})


def _how(worker: _Worker) -> str:
    code = worker.process.exitcode
    if code == -signal.SIGALRM:
        return "(it took too long over this record)"
    return f"(status {code})" if code >= 0 else f"({signal.Signals(-code).name})"


def _work(
    pipe: Connection, place: Any, specs: list[FilterSpec], make_context: Callable[[], Context]
) -> None:
    """A process: judges the jobs that come, until the pipe is closed."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # kills also where Python does not get to run
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    filters = load_filters(specs)
    chain: Chain | None = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            job: Job = pipe.recv()
            try:
                if chain is None:
                    mine = [one for one in filters if one.name in job.names]
                    chain = Chain(mine, make_context())
                    pipe.send(None)
                pipe.send((_judge(job, filters, chain, place), chain.notes))
            except DistillError as error:
                pipe.send(error)
            except (EOFError, OSError):
                raise
            except Exception as error:
                pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
    if chain is not None:
        chain.close()
    os._exit(0)  # whatever threads a filter has left


def _judge(
    job: Job, filters: list[Filter], chain: Chain, place: Any
) -> dict[str, tuple[bytes, float]]:
    found: dict[str, list[Outcome | None]] = {name: [] for name in job.names}
    spent = dict.fromkeys(job.names, 0.0)
    numbers = {one.name: number for number, one in enumerate(filters)}
    limits = {one.name: one.limit or LIMIT_S for one in filters}
    for row, record in enumerate(read_piece(job.piece)):
        for one, check in chain.checks:
            name = one.name
            if name not in found:
                continue
            if why := job.failed.get((row, name)):
                found[name].append(failed(why))
                continue
            place[0], place[1] = row, numbers[name]
            start = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, limits[name])
            found[name].append(one.judge(check, record))
            spent[name] += time.perf_counter() - start
    signal.setitimer(signal.ITIMER_REAL, 0)
    place[0] = -1
    return {name: (pack(outcomes), spent[name]) for name, outcomes in found.items()}
