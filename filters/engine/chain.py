"""Chain of the question and trace filters of a config, which judges one record at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

from filters.base import Check, Context
from filters.engine.filter import Filter, close_check
from synth.core.record import Record, Task, Verdict

_AHEAD_PER_THREAD = 8


class Chain(AbstractContextManager["Chain"]):
    """Filters of the question and the trace level with their checks; set filters are left out."""

    def __init__(self, filters: Sequence[Filter], context: Context) -> None:
        self.checks: list[tuple[Filter, Check]] = [
            (loaded, loaded.build(context)) for loaded in filters if loaded.level != "set"
        ]

    @property
    def notes(self) -> dict[str, list[str]]:
        """What filters have to say of themselves, such as what they could not check."""
        notes = ((loaded.name, getattr(check, "notes", [])) for loaded, check in self.checks)
        return {name: list(lines) for name, lines in notes if lines}

    def check_question(self, task: Task) -> list[Verdict]:
        """The verdicts of the question filters on a question that nobody has answered yet."""
        return self._verdicts("question", Record(task.id, task, [], None, ""))

    def check_trace(self, record: Record) -> list[Verdict]:
        """The verdicts of the trace filters on a record; the record is left as it is.

        All of them run, so that it can be said what each would have dropped by itself; only one
        that asks a teacher is not asked about what a filter before it drops. Safe to call from
        several threads.
        """
        return self._verdicts("trace", record)

    def apply(self, records: Iterable[Record], threads: int) -> Iterator[Record]:
        """The same records in the same order, each with its verdicts, in place of earlier ones.

        A bounded number of records is judged ahead of the one that is yielded.
        """
        pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="filter")
        pending: deque[Future[Record]] = deque()
        try:
            for record in records:
                pending.append(pool.submit(self._judge, record))
                if len(pending) > _AHEAD_PER_THREAD * max(1, threads):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _judge(self, record: Record) -> Record:
        record.verdicts = self.check_question(record.task) + self.check_trace(record)
        return record

    def _verdicts(self, level: str, record: Record) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for loaded, check in self.checks:
            if loaded.level != level:
                continue
            if loaded.needs("teacher") and any(verdict.drops for verdict in verdicts):
                continue
            start = time.perf_counter()
            outcome = loaded.judge(check, record)
            verdicts.append(loaded.verdict(outcome, time.perf_counter() - start))
        return verdicts

    def close(self) -> None:
        """Ends what the filters hold, such as worker processes."""
        for _, check in self.checks:
            close_check(check)

    def __exit__(self, *_: object) -> None:
        self.close()
