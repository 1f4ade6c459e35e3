"""Batches over one store: nothing is bought twice, whenever the run is killed or stopped."""

import asyncio
import json
import random
import signal
import time
from collections import Counter

import pytest

from synth.core.record import Request
from synth.store.keys import request_key
from synth.store.responses import Batch, ResponseStore
from synth.teachers import _batch_teacher
from tests.helpers.batch_server import (
    BatchServer,
    config_of,
    error,
    manifest,
    stored,
    teacher_of,
)
from tests.helpers.processes import kill, wait_for
from tests.helpers.scripted_teacher import ask_with, run, tasks


@pytest.fixture
def server():
    server = BatchServer()
    yield server
    server.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sqlite"


@pytest.mark.slow
def test_killed_between_submission_and_download(server, tmp_path, distill, write_config, start):
    server.hold = True
    path = write_config(config_of(server))
    process = start(path)
    wait_for(lambda: "GET /batches/batch_1" in server.calls)
    kill(process)
    server.hold = False
    done = distill("generate", path)
    assert done.returncode == 0, done.stderr
    assert len(server.uploads) == len(server.batches) == 1 and server.asked == []
    counts = manifest(tmp_path)["counts"]
    assert (counts["bought"], counts["reused"]) == (6, 0)
    assert manifest(tmp_path)["rows"]["train"] == 6
    assert sorted(stored(tmp_path)[0]) == sorted(server.made()) and stored(tmp_path)[1] == 0


@pytest.mark.slow
def test_killed_before_the_batch_is_noted(server, tmp_path, distill, write_config, start):
    server.slow_to_say_s = 5
    path = write_config(config_of(server))
    process = start(path)
    wait_for(lambda: server.batches)
    kill(process)
    server.slow_to_say_s = 0
    for n in range(5):  # others' batches, so that ours is not on the first page
        server.batches[f"batch_{n + 2}"] = {
            **server.batches["batch_1"], "id": f"batch_{n + 2}", "input_file_id": f"other-{n}",
        }  # fmt: skip
    done = distill("generate", path)
    assert done.returncode == 0, done.stderr
    assert len(server.uploads) == 1 and server.calls.count("POST /batches") == 1
    assert manifest(tmp_path)["counts"]["bought"] == 6
    assert stored(tmp_path)[1] == 0


@pytest.mark.slow
def test_killed_before_the_batch_is_made(server, tmp_path, distill, write_config, start):
    """The file is noted, but there is no batch of it: its requests are asked anew."""
    server.fault = lambda method, path: (
        error(503, "later") if (method, path) == ("POST", "/batches") else None
    )
    path = write_config(config_of(server))
    process = start(path)
    wait_for(lambda: "POST /batches" in server.calls)
    kill(process)
    server.fault = lambda method, path: None
    done = distill("generate", path)
    assert done.returncode == 0, done.stderr
    assert len(server.uploads) == 2 and len(server.batches) == 1
    assert stored(tmp_path)[1] == 0


def test_an_attempt_to_make_a_batch_whose_answer_was_lost(server, path):
    """It may have been made: it is looked for before another is made."""
    lost = []

    def fault(method, path):
        if (method, path) == ("POST", "/batches") and not lost:
            lost.append(path)
            server.batches["batch_1"] = {
                "id": "batch_1", "status": "validating", "input_file_id": "file-1",
                "created_at": time.time(), "requests": server.uploads[0], "due": 0.0,
            }  # fmt: skip
            return error(504, "gateway time-out")
        return None

    server.fault = fault
    _, counts = run(ask_with(teacher_of(server)), tasks(4), path)
    assert counts.bought == 4
    assert len(server.batches) == 1 and server.calls.count("POST /batches") == 1


# In the order of a batch's life: what is left for the next start is another thing after each.
KINDS_OF_CALL = [
    "POST /files",
    "POST /batches",
    "GET /batches/batch_",
    "GET /files/output_file_id-",
]


@pytest.mark.slow
def test_kill_9_after_every_kind_of_call(server, tmp_path, distill, write_config, start):
    """Killed within a twentieth of a second of a call of each kind, three times over."""
    server.takes_s, server.slow_to_say_s = 0.2, 0.05
    path = write_config(config_of(server, number=100, concurrency=5))
    draw = random.Random(1)
    for kind in KINDS_OF_CALL * 3:
        before = len(server.calls)
        process = start(path)
        wait_for(lambda kind=kind, n=before: any(c.startswith(kind) for c in server.calls[n:]))
        time.sleep(draw.uniform(0, 0.05))
        assert process.poll() is None, "the generation ended before the kill did"
        kill(process)
    done = distill("generate", path)
    assert done.returncode == 0, done.stderr
    made = Counter(server.made())
    assert len(made) == 100 and set(made.values()) == {1}, "a request was bought twice"
    keys, noted = stored(tmp_path)
    assert sorted(keys) == sorted(made) and noted == 0
    counts = manifest(tmp_path)["counts"]
    assert counts["bought"] + counts["reused"] == 100 and server.asked == []


@pytest.mark.slow
def test_ctrl_c_ends_at_once_and_the_rerun_collects(server, tmp_path, distill, write_config, start):
    server.hold = True
    path = write_config(config_of(server))
    process = start(path)
    wait_for(lambda: "GET /batches/batch_1" in server.calls)
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - pressed < 10
    assert process.returncode == 130, said
    assert "batch batch_1 (6 requests) goes on at the provider" in said
    assert "POST /batches/batch_1/cancel" not in server.calls
    server.hold = False
    done = distill("generate", path)
    assert done.returncode == 0, done.stderr
    assert len(server.batches) == 1 and manifest(tmp_path)["counts"]["bought"] == 6


@pytest.mark.slow
def test_answers_that_nobody_asks_for_any_more_are_stored(
    server, tmp_path, distill, write_config, start
):
    server.hold = True
    process = start(write_config(config_of(server, number=6)))
    wait_for(lambda: "GET /batches/batch_1" in server.calls)
    kill(process)
    server.hold = False
    fewer = write_config(config_of(server, number=2, price={"input": 1, "output": 2}), "fewer.yaml")
    done = distill("generate", fewer)
    assert done.returncode == 0, done.stderr
    assert manifest(tmp_path)["counts"]["bought"] == 2
    assert len(server.batches) == 1
    assert sorted(stored(tmp_path)[0]) == sorted(server.made()) and stored(tmp_path)[1] == 0
    with ResponseStore(tmp_path / "runs/responses.sqlite") as store:
        spent = store.spent("b")["t"]
    assert (spent.responses, spent.tokens) == (6, 180)
    assert spent.usd == pytest.approx(6 * 50 / 1e6)
    again = distill("generate", write_config(config_of(server, number=6)))
    assert again.returncode == 0 and manifest(tmp_path)["counts"]["reused"] == 6
    assert len(server.batches) == 1


def test_a_batch_that_goes_on_stays_noted_where_nobody_asks_for_it(server, path):
    """The run ends without it; the next one that finds it ended stores its answers."""
    server.hold = True
    teacher = teacher_of(server)

    async def leave():
        with ResponseStore(path) as store:
            teacher.open(store, "")
            asked = asyncio.create_task(
                teacher.complete(Request([{"role": "user", "content": "x"}]))
            )
            while "GET /batches/batch_1" not in server.calls:
                await asyncio.sleep(0.02)
            teacher.cancel_pending()
            with pytest.raises(Exception, match="next run"):
                await asked
            await teacher.close()

    asyncio.run(leave())
    run(ask_with(teacher_of(server)), [], path)
    with ResponseStore(path) as store:
        assert len(store.batches(teacher._endpoint)) == 1 and store.count() == 0
    server.hold = False
    run(ask_with(teacher_of(server)), [], path)
    with ResponseStore(path) as store:
        assert store.batches(teacher._endpoint) == [] and store.count() == 1


def test_a_key_in_an_old_and_a_new_batch_is_waited_for_in_the_new_one(server, path):
    """What an expired batch left over is in a second one when the run is killed."""
    teacher, request = teacher_of(server), Request([{"role": "user", "content": "question 1"}])
    key = request_key(request, teacher.identity)
    line = {"custom_id": key.key, "body": {"messages": request.messages}}
    for n, status in ((1, "expired"), (2, "validating")):
        server.batches[f"batch_{n}"] = {
            "id": f"batch_{n}", "status": status, "input_file_id": f"file-{n}", "created_at": 0,
            "requests": [line], "due": time.monotonic() + 1,
        }  # fmt: skip

    async def collected():
        with ResponseStore(path) as store:
            for n in (1, 2):
                noted = Batch(f"file-{n}", f"batch_{n}", time.time() + n, [key])
                await store.persist_batch(noted, teacher._endpoint)
            teacher.open(store, "")
            answer = await asyncio.wait_for(teacher.complete(request), 20)
            await store.persist(key, json.dumps(answer).encode())
            await teacher.close()
            assert store.batches(teacher._endpoint) == []
            return answer

    answer = asyncio.run(collected())
    assert answer["choices"][0]["message"]["content"] == "<think>a</think>question 1"
    assert server.asked == []


@pytest.mark.slow
def test_a_batch_of_another_project_is_not_bought_again(
    server, tmp_path, distill, write_config, start
):
    server.hold = True
    path = write_config(config_of(server))
    process = start(path)
    wait_for(lambda: "GET /batches/batch_1" in server.calls)
    kill(process)
    hidden = server.batches.pop("batch_1")
    done = distill("generate", path)
    assert done.returncode == 2 and "the key of another project" in done.stderr
    assert server.batches == {} and len(server.uploads) == 1
    done = distill("generate", path, "teachers.t.give_up_h=0.000001")  # long enough ago: gone
    assert done.returncode == 0, done.stderr
    assert len(server.uploads) == 2 and hidden["id"] in done.stderr


def test_what_is_noted_of_a_batch_is_its_requests_without_answers(path):
    requests = [
        request_key(Request([{"role": "user", "content": text}], {"seed": n}), {"kind": "x"})
        for n, text in enumerate(["plain", "two\nlines", "lone \ud800 surrogate"])
    ]

    async def noted():
        with ResponseStore(path) as store:
            await store.persist_batch(Batch("f", None, 5.0, requests), "e")
            assert store.batches("e") == [Batch("f", None, 5.0, requests)]
            await store.persist_batch(Batch("f", "b", 5.0, requests), "e")
            await store.persist(requests[1], b"{}")
            assert store.batches("e") == [Batch("f", "b", 5.0, [requests[0], requests[2]])]
            assert store.batches("another") == []
            await store.end_batch("f")
            assert store.batches("e") == []

    asyncio.run(noted())
    assert _batch_teacher.asked(requests[2]).messages[0]["content"] == "lone \ud800 surrogate"
    assert request_key(_batch_teacher.asked(requests[1]), {"kind": "x"}) == requests[1]
