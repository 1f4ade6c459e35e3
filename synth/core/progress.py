"""Shows progress on standard error: a live line on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

PLAIN_EVERY_S = 15.0


@contextmanager
def shown(render: Callable[[], str]) -> Iterator[None]:
    """Shows what `render` gives for as long as the block runs, and once more at its end.

    `render` is called from another thread, on a terminal several times a second.
    """
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        from rich.live import Live
        from rich.text import Text

        with Live(console=console, get_renderable=lambda: Text(render()), refresh_per_second=4):
            yield
        return
    ended = threading.Event()

    def write_changes() -> None:
        shown_text, done = "", False
        while not done:
            done = ended.wait(PLAIN_EVERY_S)
            if (text := render()) != shown_text:
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
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Returns the seconds since the start."""
        return time.monotonic() - self.start

    def eta(self, done: int, total: int) -> str:
        """Returns the time left at the pace so far, or nothing before there is a pace."""
        if not done or done >= total:
            return ""
        return f" · {duration(self.seconds * (total - done) / done)} left"
