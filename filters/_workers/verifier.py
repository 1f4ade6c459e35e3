"""Base of verifiers that run in a worker process, which is killed where it takes too long."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from filters._workers.pool import CallFailed, WorkerLost, Workers
from filters.base import cannot_tell


class WorkerVerifier:
    """A check whose work is done by a library in worker processes.

    A subclass names the package and its workers, which all checks of a kind share in a process. One
    call may take `timeout_s`, and this check wants so many `workers`.
    """

    package: ClassVar[str]
    workers: ClassVar[Workers]

    def __init__(self, timeout_s: float, workers: int) -> None:
        self._timeout_s = timeout_s
        self._open = True
        self.workers.open(max(1, workers))

    def call(
        self, function: Callable[..., Any], *args: Any, evidence: Mapping[str, Any] | None = None
    ) -> Any:
        """Returns what `function(*args)` gives in a worker.

        Where the call takes too long, fails, or costs the worker its life, it returns the
        `Decision` that nobody can tell, with this evidence.
        """
        try:
            return self.workers.call(function, *args, limit=self._timeout_s)
        except TimeoutError:
            return cannot_tell(f"timed out after {self._timeout_s:g} s", evidence)
        except WorkerLost as error:
            return cannot_tell(str(error), evidence)
        except CallFailed as error:
            return cannot_tell(f"{self.describe(error)} in {self.package}", evidence)

    def describe(self, error: CallFailed) -> str:
        """Returns what a verdict says of an exception that the library raised: its name."""
        return str(error).partition(":")[0]

    def close(self) -> None:
        """Ends the workers, unless another check in this process has use for them."""
        if self._open:
            self._open = False
            self.workers.close()
