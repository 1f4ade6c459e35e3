"""Answers Ctrl-C: the first says what is waited for, the second leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from synth.core.errors import EXIT_INTERRUPTED
from synth.core.process.environment import first_process

AGAIN = "Ctrl-C again leaves now"
# A handler in Python waits until a call of a library returns. After so long it is said without it.
_SLOW_S = 0.5


def say_interrupted(text: str) -> None:
    """Says on standard error what a Ctrl-C came to; of several processes the first speaks."""
    if first_process():
        sys.stderr.write(f"\ninterrupted: {text}\n")
        sys.stderr.flush()


@contextlib.contextmanager
def stops_gently(stop: Callable[[], object]) -> Iterator[None]:
    """Lets the first Ctrl-C call `stop`, which says what is waited for; the block then ends itself.

    A second Ctrl-C raises KeyboardInterrupt. Python gives signals to the main thread alone: in
    another one, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        _answered.set()
        stop()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_answered = threading.Event()  # whether something was said of the first Ctrl-C


@contextlib.contextmanager
def leaves_at_second_press(doing: Callable[[], str]) -> Iterator[None]:
    """Ends the process at the second Ctrl-C, whatever it does then; for a command line.

    Outside of `stops_gently` the first raises KeyboardInterrupt. `doing` returns what is done at
    the moment, or nothing. All that was paid for is in the store, which bears a kill.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        _say_first(doing())
        raise KeyboardInterrupt

    # The C part of a handler writes to this pipe at once, also while a library holds the thread.
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    before = signal.signal(signal.SIGINT, handle)
    descriptor_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    # A forked process has the same Ctrl-C, and would be counted for a second one.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_count, args=(read_end, doing), name="Ctrl-C", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor_before)
        signal.signal(signal.SIGINT, before)
        os.close(write_end)


def _count(read_end: int, doing: Callable[[], str]) -> None:
    presses = 0
    while numbers := os.read(read_end, 64):
        presses += numbers.count(signal.SIGINT)
        if presses > 1:
            _leave()
        if presses == 1 and not _answered.wait(_SLOW_S):
            _say_first(doing())
    os.close(read_end)


def _say_first(doing: str) -> None:
    if not _answered.is_set():
        _answered.set()
        say_interrupted(f"ending{f' ({doing})' if doing else ''}; {AGAIN}")


def _leave() -> None:
    with contextlib.suppress(OSError):
        if sys.stderr.isatty():
            os.write(2, b"\x1b[?25h")  # the live line hides the cursor
        os.write(2, b"left at once; what was stored stays, the same command goes on from it\n")
    os._exit(EXIT_INTERRUPTED)
