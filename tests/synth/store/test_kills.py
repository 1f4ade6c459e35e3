"""`kill -9` at random moments of a generation: nothing stored is asked again, nothing is there twice."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from synth.core.compression import decompress

# So slow that twenty kills, about a third of a second into the answers each, end before it does.
REQUESTS, KILLS, WINDOW = 500, 20, 5


def config(teacher):
    tasks = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(REQUESTS // 2)]
    return {
        "name": "kills",
        "tasks": {"train": [{"source": "inline", "tasks": tasks}]},
        "teachers": {"t": teacher},
        "generate": {
            "prompt": {"template": "plain"},
            "sampling": {"seed": 1, "max_tokens": 50},
            "samples": {"max": 2},
            "concurrency": WINDOW,
        },
        "filters": ["truncated"],
    }


def stored(path):
    """The stored requests: (question, sample) -> when it was stored."""
    if not path.exists():
        return {}
    with sqlite3.connect(path) as connection:
        try:
            rows = connection.execute("SELECT request, created FROM responses").fetchall()
        except sqlite3.OperationalError:  # killed before the table was made
            return {}
    found = {}
    for request, created in rows:
        body = json.loads(decompress(request))
        key = (body["messages"][-1]["content"], body["sample"])
        assert key not in found
        found[key] = created
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fake", "openai"])
def test_kill_9_at_twenty_random_moments(kind, api, tmp_path, write_config):
    api.latency_s = 0.2
    api.reply = lambda body: (
        200,
        {},
        api.completion(f"answer to {body['messages'][-1]['content']}"),
    )
    teacher = (
        {"kind": "fake", "latency_s": 0.2}
        if kind == "fake"
        else {"kind": "openai", "model": "m", "base_url": api.url}
    )
    path = write_config(config(teacher))
    store = tmp_path / "runs" / "responses.sqlite"
    draw = random.Random(kind)
    command = [sys.executable, "-m", "synth", "generate", str(path)]

    def key_of(body):
        return body["messages"][-1]["content"], body["seed"] - 1

    killed = 0
    for _ in range(KILLS):
        before, asked_before = stored(store), len(api.received)
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # From the import to well into the answers, wherever that may be on this machine.
        time.sleep(draw.uniform(0.3, 1.3))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        after = stored(store)
        assert before.items() <= after.items(), "a stored response was lost or bought again"
        again = {key_of(body) for body in api.received[asked_before:]} & before.keys()
        assert not again, "an answer that was stored was asked again"
    assert killed == KILLS, "the generation ended before the kills did"

    before, asked_before = stored(store), len(api.received)
    final = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert final.returncode == 0, final.stderr
    after = stored(store)
    assert len(after) == REQUESTS
    assert before.items() <= after.items()
    manifest = json.loads((tmp_path / "runs" / "kills" / "generate" / "manifest.json").read_text())
    assert manifest["counts"]["bought"] + manifest["counts"]["reused"] == REQUESTS
    assert manifest["counts"]["reused"] == len(before)
    assert manifest["rows"]["train"] == REQUESTS
    if kind == "openai":
        assert not {key_of(body) for body in api.received[asked_before:]} & before.keys()
        # What was served and not stored was on its way when the kill came: a window's worth each.
        assert len(api.served) - REQUESTS <= killed * WINDOW
