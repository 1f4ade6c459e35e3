"""Ctrl-C: what is waited for is said at once, and the second press leaves at once."""

import os
import signal
import subprocess
import sys

import pytest

from synth.core.process.interrupts import stops_gently

# A library that holds the thread and bears signals: no handler in Python runs meanwhile.
IN_A_LIBRARY = """
import sqlite3
from synth.core.process.interrupts import leaves_at_second_press

with leaves_at_second_press(lambda: "loading m"):
    print("ready", flush=True)
    sqlite3.connect(":memory:").execute(
        "with recursive c(x) as (values(1) union all select x + 1 from c) select max(x) from c"
    )
"""


@pytest.fixture
def start(tmp_path):
    """Starts a process with pipes, in an empty folder; ends it with the test."""
    started = []

    def go(*arguments):
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield go
    for process in started:
        process.kill()
        process.communicate()


def line_with(stream, text):
    """Reads on up to the line that holds a text."""
    return next(line for line in stream if text in line)


def test_in_the_middle_of_a_library_it_is_said_and_the_second_press_leaves(start):
    process = start("-c", IN_A_LIBRARY)
    line_with(process.stdout, "ready")
    process.send_signal(signal.SIGINT)
    said = line_with(process.stderr, "interrupted")
    assert said == "interrupted: ending (loading m); Ctrl-C again leaves now\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


def test_the_first_press_asks_to_stop_and_the_second_raises():
    before, asked = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), stops_gently(lambda: asked.append(1)):
        os.kill(os.getpid(), signal.SIGINT)
        assert asked == [1]
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second press was not heard")
    assert asked == [1]
    assert signal.getsignal(signal.SIGINT) is before


def api_config(api):
    rows = [{"question": f"q{i}", "answer": i} for i in range(100)]
    teacher = {"kind": "openai", "model": "m", "base_url": api.url, "timeout_s": 90}
    return {
        "name": "r", "tasks": {"train": [{"source": "inline", "tasks": rows}]},
        "teachers": {"t": teacher},
        "generate": {"prompt": {"template": "plain"}, "concurrency": 10}, "filters": ["truncated"],
    }  # fmt: skip


@pytest.mark.slow
def test_a_generation_says_what_it_waits_for_and_leaves_at_the_second_press(
    api, start, write_config
):
    def reply(body):
        api.latency_s = 600.0  # for all but the first
        return 200, {}, api.completion("x")

    api.reply = reply
    process = start("-m", "synth", "generate", write_config(api_config(api)))
    while len(api.received) < 11:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = line_with(process.stderr, "interrupted")
    assert said == (
        "interrupted: 10 requests are in flight and paid for: waiting for the answers, at most "
        "1 min 30 s. Ctrl-C again leaves now\n"
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "Traceback" not in process.stderr.read()


SLOW_FILTER = """
import time
from filters.base import KEEP, FilterConfig

class Config(FilterConfig):
    pass

def build(config, context):
    def check(record):
        open("begun", "w").close()
        time.sleep(600)
        return KEEP
    return check
"""


@pytest.mark.slow
def test_filtering_ends_at_once_and_says_so(start, tmp_path):
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "slow_filter.py").write_text(SLOW_FILTER)
    (tmp_path / "traces.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    process = start("-m", "synth", "filter", "traces.jsonl", "filters=[my.slow_filter]")
    while not (tmp_path / "begun").exists():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    assert line_with(process.stderr, "interrupted") == (
        "interrupted: ending; Ctrl-C again leaves now\n"
    )
    assert process.wait(60) == 130
