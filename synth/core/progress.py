"""Shows progress on standard error: a live line on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PLAIN_EVERY_S = 15.0
PLAIN_FIRST_S = 2.0  # until the first plain line: what ends sooner needs none before its end

_doing: list[str] = []  # what takes its time within the work that is shown, the latest last


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Adds to the progress line what is done while the block runs, such as loading a model."""
    _doing.append(what)
    try:
        yield
    finally:
        _doing.remove(what)


def done_now() -> str:
    """Returns what is done at the moment and takes its time, or nothing."""
    return _doing[-1] if _doing else ""


@contextmanager
def shown(render: Callable[[], str] = lambda: "", remains: bool = True) -> Iterator[None]:
    """Shows what `render` gives for as long as the block runs, and once more at its end.

    `render` is called from another thread, on a terminal several times a second. `remains=False`
    is for a short wait: nothing is shown at its end, and on a terminal nothing is left of it.
    """

    def line() -> str:
        return " · ".join(part for part in (render(), done_now()) if part)

    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        from rich.live import Live
        from rich.text import Text

        with Live(
            console=console,
            get_renderable=lambda: Text(line()),
            refresh_per_second=4,
            transient=not remains,
        ):
            yield
        return
    ended = threading.Event()

    def write_changes() -> None:
        shown_text, done, pause = "", False, PLAIN_FIRST_S
        while not done:
            done, pause = ended.wait(pause), PLAIN_EVERY_S
            if (remains or not done) and (text := line()) != shown_text:
                shown_text = text
                sys.stderr.write(text + "\n")
                sys.stderr.flush()

    thread = threading.Thread(target=write_changes, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def duration(seconds: float) -> str:
    """Returns a time as people read it: `8.5 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class Clock:
    """Rate and time left, from work done since the clock was started."""

    def __init__(self) -> None:
        self.restart(0)

    def restart(self, done: int) -> None:
        """Starts anew, with so much done before that says nothing of the pace."""
        self.start, self._done_before = time.monotonic(), done

    @property
    def seconds(self) -> float:
        """Returns the seconds since the start."""
        return time.monotonic() - self.start

    def eta(self, done: int, total: int) -> str:
        """Returns the time left at the pace so far; `?` before there is a pace."""
        if done >= total:
            return ""
        new = done - self._done_before
        left = duration(self.seconds * (total - done) / new) if new > 0 else "?"
        return f" · {left} left"
