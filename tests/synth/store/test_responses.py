"""The response store: the table of its key line by line, what it holds, and what stops it."""

import asyncio
import contextlib
import copy
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from synth.config.validate import load_run
from synth.core.errors import Unfinished, UserError
from synth.core.record import Request
from synth.stages.pipeline import do_stage
from synth.store import responses as store
from synth.store.keys import request_key
from synth.store.responses import ResponseMetadata, ResponseStore
from tests.helpers.scripted_teacher import Scripted, ask_with, run, tasks

QUESTIONS = 6
EXAMPLES = [{"question": "1 + 1", "reasoning": "1 + 1 = 2", "answer": "2"}]


def rows():
    return [{"question": f"What is {i} + 1?", "answer": i + 1} for i in range(QUESTIONS)]


@pytest.fixture
def config(api, tmp_path, monkeypatch):
    """A run of two answers a question against a server on loopback; every answer passes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEY_ONE", "secret-1")
    monkeypatch.setenv("KEY_TWO", "secret-2")
    answer = api.completion("<think>a</think>\\boxed{1}")
    answer["choices"][0]["logprobs"] = {"content": [{"token": "token_id:1", "logprob": -0.1}]}
    api.reply = lambda body: (200, {}, answer)
    return {
        "name": "first",
        "tasks": {"train": [{"source": "inline", "tasks": rows()}]},
        "teachers": {"t": {"kind": "openai", "model": "m", "base_url": api.url}},
        "generate": {
            "prompt": {"template": "boxed_examples.en", "values": {"examples": EXAMPLES}},
            "sampling": {"temperature": 0.5, "max_tokens": 50},
            "samples": {"max": 2},
        },
        "filters": ["truncated"],
    }


def buys(api, write_config, config):
    """How many requests a run of this config sends; the stage itself is done anew."""
    run, _ = load_run(str(write_config(config)))
    shutil.rmtree(run.folder / "generate", ignore_errors=True)
    before = len(api.received)
    for stage in ("tasks", "generate"):
        do_stage(stage, run, lambda text: None)
    return len(api.received) - before


def change(path, value):
    """A change of a config: sets what stands at a dotted path."""

    def apply(config, api):
        *steps, last = path.split(".")
        here = config
        for step in steps:
            here = here.setdefault(step, {}) if isinstance(here, dict) else here[int(step)]
        here[last] = value

    return apply


def other_address(config, api):
    config["teachers"]["t"]["base_url"] = api.url.replace("127.0.0.1", "localhost")


def renamed(config, api):
    config["teachers"] = {"another name": config["teachers"].pop("t")}


def edited(config, api):
    config["tasks"]["train"][0]["tasks"][2]["question"] = "What is 2 + 1, please?"


def appended(config, api):
    config["tasks"]["train"][0]["tasks"].append({"question": "What is 9 + 1?", "answer": 10})


def reordered(config, api):
    config["tasks"]["train"][0]["tasks"].reverse()


def relabelled(config, api):
    config["tasks"]["train"][0] |= {"name": "another source"}
    for row in config["tasks"]["train"][0]["tasks"]:
        row |= {"answer": 7, "level": "hard"}


ALL = 2 * QUESTIONS
# The lines of the table at the head of synth/store/responses.py.
MESSAGES = "in messages"
SAMPLING = "in sampling parameters as sent"
IDENTITY = "in the teacher's identity"
INDEX = "in the sample's index"
NAME = "out the teacher's name, its share and place"
MONEY = "out prices, budgets, keys, retries, time-outs"
PACE = "out concurrency, rate limits, batch sizes"
BESIDE = "out the question's id, reference, metadata"
PLACE = "out the question's place, the run's name"
READERS = "out filters, student, training, evaluation"
TABLE = [
    (MESSAGES, edited, 2),
    (MESSAGES, change("generate.prompt.values.examples.0.reasoning", "1 and 1 is 2"), ALL),
    (MESSAGES, change("generate.prompt", {"template": "boxed.en"}), ALL),
    (SAMPLING, change("generate.sampling.temperature", 0.6), ALL),
    (SAMPLING, change("generate.sampling.max_tokens", 51), ALL),
    (SAMPLING, change("generate.sampling.seed", 1), ALL),
    (SAMPLING, change("generate.sampling.top_logprobs", 1), ALL),
    (SAMPLING, change("generate.sampling.extra", {"reasoning_effort": "low"}), ALL),
    (IDENTITY, change("teachers.t.model", "m-2"), ALL),
    (IDENTITY, other_address, ALL),
    (IDENTITY, change("teachers.t", {"kind": "fake"}), 0),  # bought, but not here
    (INDEX, change("generate.samples.max", 3), QUESTIONS),
    (NAME, renamed, 0),
    (NAME, change("teachers.t.weight", 3), 0),
    (MONEY, change("teachers.t.price", {"input": 1, "output": 2}), 0),
    (MONEY, change("budget", {"tokens": 10**9}), 0),
    (MONEY, change("teachers.t.budget", {"tokens": 10**9}), 0),
    (MONEY, change("teachers.t.api_key_env", "KEY_TWO"), 0),
    (MONEY, change("generate.retries", 1), 0),
    (MONEY, change("teachers.t.timeout_s", 5), 0),
    (MONEY, change("generate.patience_s", 5), 0),
    (PACE, change("generate.concurrency", 2), 0),
    (PACE, change("teachers.t.concurrency", 2), 0),
    (PACE, change("teachers.t.rpm", 1000), 0),
    (PACE, change("teachers.t.tpm", 10**6), 0),
    (BESIDE, relabelled, 0),
    (PLACE, reordered, 0),
    (PLACE, appended, 2),
    (PLACE, change("name", "second"), 0),
    (READERS, change("filters", ["math_answer", "repetition"]), 0),
    (READERS, change("student", {"model": "./none", "prompt": {"template": "plain"}}), 0),
]


def named(number, line, change, bought):
    slow = pytest.mark.slow if number == len(TABLE) - 1 else ()  # looks for the student's tokenizer
    return pytest.param(change, bought, id=f"{line.replace(' ', '-')}-{number}", marks=slow)


@pytest.mark.parametrize(
    ("change", "bought"), [named(number, *row) for number, row in enumerate(TABLE)]
)
def test_the_table_of_the_key(api, config, write_config, change, bought):
    assert buys(api, write_config, config) == ALL
    changed = copy.deepcopy(config)
    change(changed, api)
    assert buys(api, write_config, changed) == bought
    # And back: what was bought first is still there.
    assert buys(api, write_config, config) == 0


def test_each_line_of_the_table_has_a_test():
    table = re.findall(r"^    (in|out)  +(.+?)  ", store.__doc__, re.MULTILINE)
    assert {f"{way} {what}" for way, what in table} == {row[0] for row in TABLE}


def test_the_teachers_place_is_not_in_the_key(api, config, write_config):
    config["teachers"]["u"] = {**config["teachers"]["t"], "model": "m-2"}
    config["generate"] |= {"route": "cascade", "samples": {"max": 2, "until_verified": 2}}
    config["filters"] = ["math_answer"]
    relabelled(config, api)  # no answer is right, so both teachers are asked all they may
    assert buys(api, write_config, config) == 2 * ALL
    config["generate"]["teachers"] = ["u", "t"]
    assert buys(api, write_config, config) == 0


def test_sampling_in_another_order_and_the_task_behind_it_change_no_key():
    sampling = {"temperature": 0.5, "max_tokens": 5}
    one = Request([{"role": "user", "content": "q"}], sampling, 0, tasks(1)[0])
    other = Request(one.messages, dict(reversed(sampling.items())), 0, None)
    assert request_key(one, {"kind": "a"}) == request_key(other, {"kind": "a"})
    system = Request([{"role": "system", "content": "q"}], sampling, 0)
    assert request_key(system, {"kind": "a"}) != request_key(one, {"kind": "a"})


# --- what it holds ---


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sqlite"


def test_hostile_text_is_kept_as_it_came_and_the_first_answer_stays(path):
    raw = {"choices": [{"message": {"content": "\ud800 \x00 '; DROP TABLE responses; --"}}]}
    request = Request([{"role": "user", "content": "\udfff\x00"}])

    async def put():
        with ResponseStore(path) as opened:
            await opened.persist(request_key(request, {}), json.dumps(raw).encode())
            assert opened.get(request_key(request, {}).key).raw == raw
            await opened.persist(request_key(request, {}), b'{"choices": []}')
            assert opened.get(request_key(request, {}).key).raw == raw
            assert opened.count() == 1

    asyncio.run(put())


def test_what_a_run_spent_is_told_by_teacher(path):
    async def put():
        with ResponseStore(path) as opened:
            for i, (run, teacher, cost) in enumerate(
                [("r", "a", 0.5), ("r", "a", None), ("r", "b", 2.0), ("other", "a", 9.0)]
            ):
                bought = ResponseMetadata(run, teacher, 10, 20 + i, cost, 1.0)
                await opened.persist(request_key(Request([], {"n": i}), {}), b"{}", bought)
            assert opened.spent("r") == {"a": (2, 61, 0.5), "b": (1, 32, 2.0)}
            assert opened.spent("nobody") == {}

    asyncio.run(put())


# --- what stops it ---


def test_what_is_no_store_is_said_so_with_the_command_that_helps(tmp_path):
    path = tmp_path / "not-a-store"
    path.write_text("hello, this is a text file and no data base at all" * 100)
    with pytest.raises(UserError, match=r"damaged, or no response store.*`distill recover "):
        ResponseStore(path)


def test_a_store_of_another_version_is_refused(path):
    ResponseStore(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.commit()
    with pytest.raises(UserError, match="of version 99"):
        ResponseStore(path)


def test_a_flipped_bit_in_a_response_is_noticed_when_it_is_read(path):
    key = request_key(Request([], {"n": 1}), {})

    async def put():
        with ResponseStore(path) as opened:
            await opened.persist(key, json.dumps({"text": "x" * 50, "n": 1}).encode())

    asyncio.run(put())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (blob,) = connection.execute("SELECT response FROM responses").fetchone()
    damaged = path.read_bytes().replace(blob, blob[:-6] + bytes([blob[-6] ^ 1]) + blob[-5:])
    path.write_bytes(damaged)
    with ResponseStore(path) as opened, pytest.raises(UserError, match="`distill recover "):
        opened.get(key.key)


@pytest.mark.skipif(
    os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="mounts a small disk"
)
def test_on_a_disk_that_is_really_full_what_is_under_way_still_finds_room(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        (Path(disk) / "filler").write_bytes(b"\0" * 3_500_000)
        noise = random.Random(1)
        teacher = Scripted(lambda r, n: noise.randbytes(20_000).hex())
        with pytest.raises(Unfinished, match="make room and run again"):
            run(ask_with(teacher, concurrency=8), tasks(3000), disk / "s.sqlite")
        with contextlib.closing(sqlite3.connect(disk / "s.sqlite")) as connection:
            stored = connection.execute("SELECT count(*) FROM responses").fetchone()[0]
        # More than the free room alone could take: the reserve was given up for it.
        assert stored * 20_000 > 3_000_000
        assert stored >= len(teacher.asked) - 8
    finally:
        subprocess.run(["umount", str(disk)], check=True)
