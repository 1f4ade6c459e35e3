"""The batch API over one store: nothing is bought twice, whenever the run is killed."""

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from synth.answers import parse_answer
from synth.errors import Unfinished, UserError
from synth.generate_config import Budget, Samples, Sampling
from synth.labels import unpack
from synth.lane import Lane, Limits
from synth.store import Batch, Store, keyed
from synth.teachers import openai, openai_batch
from synth.teachers.contract import Request, Retry

sys.path += [str(Path(__file__).resolve().parents[n]) for n in (1, 2)]
from asking import ask_with, run, tasks
from batchserver import BatchServer, completion, error, text_of

KEY = "sk-test-5f2c"


@pytest.fixture
def server():
    server = BatchServer()
    yield server
    server.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sqlite"


def config_of(server, number=6, samples=1, **teacher):
    asked = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(number)]
    return {
        "name": "b",
        "tasks": {"train": [{"source": "inline", "tasks": asked}]},
        "teachers": {"t": options(server, **teacher)},
        "generate": {
            "prompt": {"template": "plain"},
            "sampling": {"seed": 1, "max_tokens": 50},
            "samples": {"max": samples},
        },
    }


def options(server, kind="openai_batch", **more):
    quick = {"gather_s": 0.2, "poll_s": 0.1} if kind == "openai_batch" else {}
    return {"kind": kind, "model": "m", "base_url": server.url, **quick, **more}


def teacher_of(server, **more):
    wanted = {k: v for k, v in options(server, **more).items() if k != "kind"}
    return openai_batch.build(openai_batch.Config(**wanted), "t")


def start(config, cwd, **env):
    """Begins a generation in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "synth", "generate", str(config)],
        cwd=cwd, text=True, env={**os.environ, **env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(what, seconds=30):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


def manifest(tmp_path):
    return json.loads((tmp_path / "runs/b/generate/manifest.json").read_text())


def stored(tmp_path):
    with sqlite3.connect(tmp_path / "runs/responses.sqlite") as connection:
        keys = [row[0] for row in connection.execute("SELECT key FROM responses")]
        return keys, connection.execute("SELECT count(*) FROM batches").fetchone()[0]


def test_one_batch_answers_all_and_a_rerun_buys_nothing(server, tmp_path, distill, write_config):
    server.takes_s = 0.3
    path = write_config(
        config_of(server, samples=2, api_key_env="BATCH_KEY", price={"input": 1, "output": 2})
    )
    done = distill("generate", path, env={"BATCH_KEY": KEY})
    assert done.returncode == 0, done.stderr
    assert [len(lines) for lines in server.uploads] == [12]
    assert server.uploads[0][0]["method"] == "POST"
    assert server.uploads[0][0]["url"] == "/v1/chat/completions"
    assert server.uploads[0][0]["body"]["max_tokens"] == 50
    counts = manifest(tmp_path)["counts"]
    assert (counts["bought"], counts["reused"]) == (12, 0)
    assert counts["cost_usd"] == pytest.approx(12 * (10 * 1 + 20 * 2) / 1e6)
    assert stored(tmp_path) == (stored(tmp_path)[0], 0)
    assert sorted(stored(tmp_path)[0]) == sorted(server.made())
    assert "t: batch batch_1: 12 requests submitted" in done.stderr
    assert KEY not in done.stderr + done.stdout

    before = len(server.calls)
    done = distill("generate", path, "generate.concurrency=5", env={"BATCH_KEY": KEY})
    assert done.returncode == 0 and len(server.calls) == before


def test_answers_bought_in_a_batch_are_those_of_the_online_teacher(
    server, tmp_path, distill, write_config
):
    assert distill("generate", write_config(config_of(server))).returncode == 0
    online = config_of(server, kind="openai") | {"name": "c"}
    done = distill("generate", write_config(online, "online.yaml"))
    assert done.returncode == 0 and server.asked == []


def test_killed_between_submission_and_download(server, tmp_path, distill, write_config):
    server.hold = True
    path = write_config(config_of(server))
    process = start(path, tmp_path)
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


def test_killed_before_the_batch_is_noted(server, tmp_path, distill, write_config):
    server.slow_to_say_s = 5
    path = write_config(config_of(server))
    process = start(path, tmp_path)
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


def test_killed_before_the_batch_is_made(server, tmp_path, distill, write_config):
    """The file is noted, but there is no batch of it: its requests are asked anew."""
    server.fault = lambda method, path: (
        error(503, "later") if (method, path) == ("POST", "/batches") else None
    )
    path = write_config(config_of(server))
    process = start(path, tmp_path)
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


@pytest.mark.slow
def test_kill_9_after_every_kind_of_call(server, tmp_path, distill, write_config):
    """Killed within a twentieth of a second of a random call, of a different kind each time."""
    server.takes_s, server.slow_to_say_s = 0.2, 0.05
    path = write_config(config_of(server, number=100, concurrency=5))
    draw, last_calls = random.Random(1), set()
    for _ in range(15):
        until = len(server.calls) + draw.randint(1, 9)
        process = start(path, tmp_path)
        wait_for(lambda until=until: len(server.calls) >= until)
        time.sleep(draw.uniform(0, 0.05))
        assert process.poll() is None, "the generation ended before the kill did"
        kill(process)
        last_calls.add(server.calls[-1].rstrip("0123456789"))
    assert len(last_calls) >= 4, last_calls
    done = distill("generate", path)
    assert done.returncode == 0, done.stderr
    made = Counter(server.made())
    assert len(made) == 100 and set(made.values()) == {1}, "a request was bought twice"
    keys, noted = stored(tmp_path)
    assert sorted(keys) == sorted(made) and noted == 0
    counts = manifest(tmp_path)["counts"]
    assert counts["bought"] + counts["reused"] == 100 and server.asked == []


def test_ctrl_c_ends_at_once_and_the_rerun_collects(server, tmp_path, distill, write_config):
    server.hold = True
    path = write_config(config_of(server))
    process = start(path, tmp_path)
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


def test_answers_that_nobody_asks_for_any_more_are_stored(server, tmp_path, distill, write_config):
    server.hold = True
    process = start(write_config(config_of(server, number=6)), tmp_path)
    wait_for(lambda: "GET /batches/batch_1" in server.calls)
    kill(process)
    server.hold = False
    fewer = write_config(config_of(server, number=2, price={"input": 1, "output": 2}), "fewer.yaml")
    done = distill("generate", fewer)
    assert done.returncode == 0, done.stderr
    assert manifest(tmp_path)["counts"]["bought"] == 2
    assert len(server.batches) == 1
    assert sorted(stored(tmp_path)[0]) == sorted(server.made()) and stored(tmp_path)[1] == 0
    with Store(tmp_path / "runs/responses.sqlite") as store:
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
        with Store(path) as store:
            teacher.attach(store, "")
            asked = asyncio.create_task(
                teacher.complete(Request([{"role": "user", "content": "x"}]))
            )
            while "GET /batches/batch_1" not in server.calls:
                await asyncio.sleep(0.02)
            teacher.let_go()
            with pytest.raises(Exception, match="next run"):
                await asked
            await teacher.close()

    asyncio.run(leave())
    run(ask_with(teacher_of(server)), [], path)
    with Store(path) as store:
        assert len(store.batches(teacher._endpoint)) == 1 and store.count() == 0
    server.hold = False
    run(ask_with(teacher_of(server)), [], path)
    with Store(path) as store:
        assert store.batches(teacher._endpoint) == [] and store.count() == 1


def odd(line):
    """Answers half of the requests: those of even numbers."""
    return None if int(text_of(line).split()[1]) % 2 else (200, completion(text_of(line)))


def test_what_an_expired_batch_left_over_is_finished_online(server, path):
    server.answer, server.ends = odd, lambda batch: ("expired", None)
    got, counts = run(ask_with(teacher_of(server)), tasks(10), path)
    assert counts.bought == 10 and not counts.failed
    assert counts.retried == {"left over by a batch": 5}
    assert sorted(text_of(body) for body in server.asked) == [
        f"question {n}" for n in range(1, 10, 2)
    ]
    assert [r[0].answer for _, r in got][:2] == ["question 0", "online question 1"]
    assert len(server.batches) == 1


def test_what_a_batch_left_over_goes_into_the_next_one(server, path):
    server.answer = lambda body: odd(body) if len(server.batches) == 1 else (200, completion("b"))
    server.ends = lambda batch: ("expired" if batch["id"] == "batch_1" else "completed", None)
    _, counts = run(ask_with(teacher_of(server, online=False)), tasks(10), path)
    assert counts.bought == 10 and server.asked == []
    first, *others = [len(batch["requests"]) for batch in server.batches.values()]
    assert first == 10 and sum(others) == 5
    with Store(path) as store:
        assert store.batches(teacher_of(server)._endpoint) == []


def test_a_key_in_an_old_and_a_new_batch_is_waited_for_in_the_new_one(server, path):
    """What an expired batch left over is in a second one when the run is killed."""
    teacher, request = teacher_of(server), Request([{"role": "user", "content": "question 1"}])
    key = keyed(request, teacher.identity)
    line = {"custom_id": key.key, "body": {"messages": request.messages}}
    for n, status in ((1, "expired"), (2, "validating")):
        server.batches[f"batch_{n}"] = {
            "id": f"batch_{n}", "status": status, "input_file_id": f"file-{n}", "created_at": 0,
            "requests": [line], "due": time.monotonic() + 1,
        }  # fmt: skip

    async def collected():
        with Store(path) as store:
            for n in (1, 2):
                noted = Batch(f"file-{n}", f"batch_{n}", time.time() + n, [key])
                await store.put_batch(noted, teacher._endpoint)
            teacher.attach(store, "")
            answer = await asyncio.wait_for(teacher.complete(request), 20)
            await store.put(key, json.dumps(answer).encode())
            await teacher.close()
            assert store.batches(teacher._endpoint) == []
            return answer

    answer = asyncio.run(collected())
    assert answer["choices"][0]["message"]["content"] == "<think>a</think>question 1"
    assert server.asked == []


@pytest.mark.parametrize(
    ("line", "counts", "asked"),
    [
        ((400, {"error": {"message": "too long"}}), {"failed": {"status 400": 1}}, 0),
        ((429, {"error": {"message": "slow"}}), {"retried": {"left over by a batch": 1}}, 1),
        ((500, {"error": {"message": "ill"}}), {"retried": {"left over by a batch": 1}}, 1),
        ((200, "not an object"), {"retried": {"left over by a batch": 1}}, 1),
    ],
)
def test_lines_with_an_error(server, path, line, counts, asked):
    server.answer = lambda body: line if "1" in text_of(body) else (200, completion("x"))
    _, got = run(ask_with(teacher_of(server)), tasks(3), path)
    assert got.bought == (3 if asked else 2) and len(server.asked) == asked
    for name, wanted in counts.items():
        assert dict(getattr(got, name)) == wanted
    with Store(path) as store:
        assert store.batches(teacher_of(server)._endpoint) == []


def test_a_line_that_says_the_money_is_gone_stops_the_run(server, path):
    server.answer = lambda body: (
        error(429, "gone", "insufficient_quota") if "1" in text_of(body) else (200, completion("x"))
    )
    with pytest.raises(Unfinished, match="quota is used up"):
        run(ask_with(teacher_of(server)), tasks(3), path)
    with Store(path) as store:
        assert store.count() == 2


def test_lines_that_are_none(server, path):
    """Files with broken, foreign and doubled lines: what is missing is asked online."""
    server.answer = lambda body: (200, completion("x"))

    def ends(batch):
        server.takes_s = 0
        return "completed", None

    server.ends = ends
    plain = server._finish

    def finish(batch, status, errors):
        plain(batch, status, errors)
        lines = server._files[batch["output_file_id"]]
        lines[0] = "no object"
        lines[1]["custom_id"] = 7
        lines += [{**lines[2], "custom_id": "f" * 64}, lines[2]]

    server._finish = finish
    _, counts = run(ask_with(teacher_of(server)), tasks(4), path)
    assert counts.bought == 4 and len(server.asked) == 2
    with Store(path) as store:
        assert store.count() == 4


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (error(401, f"wrong key {KEY}"), 2, "does not accept the key (from BATCH_KEY)"),
        (error(403, "no"), 2, "does not accept the key"),
        (error(404, "what"), 2, "kind: openai_batch needs the files and batches endpoints"),
        (error(400, "bad file"), 2, "POST /files: status 400: bad file"),
        (error(429, "gone", "insufficient_quota"), 3, "the balance or quota is used up"),
    ],
)
def test_an_upload_that_is_refused_ends_the_run_at_once(
    server, fault, status, said, distill, write_config
):
    server.fault = lambda method, path: fault
    path = write_config(config_of(server, api_key_env="BATCH_KEY"))
    done = distill("generate", path, env={"BATCH_KEY": KEY})
    assert done.returncode == status, done.stderr
    assert said in done.stderr and KEY not in done.stderr + done.stdout
    assert server.calls == ["POST /files"]


def test_a_wrong_address_ends_the_run(server, path):
    with pytest.raises(UserError, match="cannot reach"):
        run(ask_with(teacher_of(server, base_url="http://127.0.0.1:9/v1")), tasks(3), path)


@pytest.mark.parametrize(
    ("errors", "status", "said"),
    [
        ([{"code": "invalid_json_line", "message": "line 1"}], 2, "invalid_json_line: line 1"),
        ([{"code": "billing_hard_limit_reached", "message": "no money"}], 3, "used up: no money"),
        ([{"code": "token_limit_exceeded", "message": "enqueued"}], 3, "lower max_requests"),
    ],
)
def test_a_batch_that_fails_validation(
    server, errors, status, said, tmp_path, distill, write_config
):
    server.ends = lambda batch: ("failed", errors)
    path = write_config(config_of(server))
    done = distill("generate", path)
    assert done.returncode == status and said in done.stderr
    assert len(server.batches) == 1 and stored(tmp_path) == ([], 0)
    server.ends = lambda batch: ("completed", None)
    assert distill("generate", path).returncode == 0  # nothing of it was bought


def test_batches_beyond_the_limit_on_enqueued_tokens_wait_for_room(server, path):
    def fault(method, path):
        if (method, path) == ("POST", "/batches"):
            server.takes_s = 0.0 if server.batches else 0.8

    def ends(batch):
        if batch["id"] != "batch_1" and server.batches["batch_1"]["status"] != "completed":
            return "failed", [{"code": "token_limit_exceeded", "message": "enqueued"}]
        return "completed", None

    server.fault, server.ends = fault, ends
    _, counts = run(ask_with(teacher_of(server, max_requests=3)), tasks(6), path)
    assert counts.bought == 6 and not counts.retried
    assert [batch["status"] for batch in server.batches.values()].count("failed") == 1
    assert len(server.uploads) == 2 and len(set(server.made())) == len(server.made()) == 6


def test_limits_part_the_requests(server, path):
    run(ask_with(teacher_of(server, max_requests=4)), tasks(10), path)
    assert sorted(len(lines) for lines in server.uploads) == [2, 4, 4]
    server.uploads.clear()
    run(ask_with(teacher_of(server, max_bytes=600)), [t for t in tasks(19) if len(t.id) > 2], path)
    assert [len(lines) for lines in server.uploads] == [2, 2, 2, 2, 1]


def test_a_batch_that_takes_too_long_is_cancelled_and_finished_online(server, path):
    server.takes_s, server.answer = 600, odd
    teacher = teacher_of(server, give_up_h=0.5 / 3600)
    _, counts = run(ask_with(teacher), tasks(6), path)
    assert "POST /batches/batch_1/cancel" in server.calls
    assert counts.bought == 6 and len(server.asked) == 3


def test_trouble_on_the_way_is_waited_out(server, path):
    trouble = Counter()

    def fault(method, path):
        trouble[f"{method} {path}"] += 1
        return error(503, "later") if trouble[f"{method} {path}"] == 1 else None

    server.fault = fault
    _, counts = run(ask_with(teacher_of(server)), tasks(3), path)
    assert counts.bought == 3 and not counts.retried
    assert set(trouble.values()) >= {2} and len(server.batches) == 1


def test_answers_whose_file_is_late_are_waited_for(server, path):
    """A batch may say that it is completed before it names the file of its answers."""
    shown, looks = server._shown, []

    def without_file(batch):
        said = shown(batch)
        looks.append(said["status"])
        return {**said, "output_file_id": None} if looks.count("completed") < 3 else said

    server._shown = without_file
    _, counts = run(ask_with(teacher_of(server)), tasks(3), path)
    assert counts.bought == 3 and not counts.retried and server.asked == []
    assert looks.count("completed") == 3


def test_a_cap_ends_the_run_and_sends_nothing_more(server, path):
    ask = ask_with(teacher_of(server), concurrency=4, budget=Budget(tokens=100))
    with pytest.raises(Unfinished, match="cap of 100 tokens"):
        run(ask, tasks(12), path)
    assert [len(lines) for lines in server.uploads] == [4]
    with Store(path) as store:
        assert store.count() == 4


def test_a_batch_of_another_project_is_not_bought_again(server, tmp_path, distill, write_config):
    server.hold = True
    path = write_config(config_of(server))
    process = start(path, tmp_path)
    wait_for(lambda: "GET /batches/batch_1" in server.calls)
    kill(process)
    hidden = server.batches.pop("batch_1")
    done = distill("generate", path)
    assert done.returncode == 2 and "the key of another project" in done.stderr
    assert server.batches == {} and len(server.uploads) == 1
    done = distill("generate", path, "teachers.t.give_up_h=0.000001")  # long enough ago: gone
    assert done.returncode == 0, done.stderr
    assert len(server.uploads) == 2 and hidden["id"] in done.stderr


def test_the_same_question_twice_is_one_line(server, path):
    twice = [*tasks(3), *tasks(3)]
    got, _ = run(ask_with(teacher_of(server)), twice, path)
    assert [len(lines) for lines in server.uploads] == [3]
    assert len(got) == 6 and all(len(records) == 1 for _, records in got)


def test_several_rounds_until_verified(server, path):
    """Each round of samples is a batch."""
    server.answer = lambda body: (
        200, completion(f"\\boxed{{{text_of(body).split()[1]}}}" if len(server.batches) > 1 else "no")
    )  # fmt: skip
    samples = Samples(max=4, until_verified=1)
    _, counts = run(
        ask_with(teacher_of(server), samples=samples, sampling=Sampling(seed=1)), tasks(5), path
    )
    assert [len(b["requests"]) for b in server.batches.values()] == [5, 5]
    assert counts.kept == 5 and counts.solved == 5


def test_soft_labels_come_out_of_a_batch(server, path):
    def entry(id, logprob):
        return {"token": f"token_id:{id}", "logprob": logprob}

    content = [{**entry(n, -0.1), "top_logprobs": [entry(n, -0.1), entry(9, -2.0)]} for n in (3, 4)]
    labelled = completion("x")
    labelled["choices"][0]["logprobs"] = {"content": content}
    server.answer = lambda body: (200, labelled)
    sampling = Sampling(max_tokens=9, top_logprobs=2)
    _, counts = run(ask_with(teacher_of(server), sampling=sampling), tasks(2), path)
    assert counts.bought == 2
    assert server.uploads[0][0]["body"]["top_logprobs"] == 2
    assert server.uploads[0][0]["body"]["return_tokens_as_token_ids"] is True
    with Store(path) as store:
        for key in server.made():
            labels = unpack(store.labels(key))
            assert labels.token_ids.tolist() == [3, 4]
            assert labels.top_ids.tolist() == [[3, 9], [4, 9]]


def test_a_preview_asks_online(server, path):
    teacher = teacher_of(server)
    teacher.at_once()
    run(ask_with(teacher), tasks(2), path)
    assert len(server.asked) == 2 and server.uploads == []


def test_what_is_noted_of_a_batch_is_its_requests_without_answers(path):
    requests = [
        keyed(Request([{"role": "user", "content": text}], {"seed": n}), {"kind": "x"})
        for n, text in enumerate(["plain", "two\nlines", "lone \ud800 surrogate"])
    ]

    async def noted():
        with Store(path) as store:
            await store.put_batch(Batch("f", None, 5.0, requests), "e")
            assert store.batches("e") == [Batch("f", None, 5.0, requests)]
            await store.put_batch(Batch("f", "b", 5.0, requests), "e")
            await store.put(requests[1], b"{}")
            assert store.batches("e") == [Batch("f", "b", 5.0, [requests[0], requests[2]])]
            assert store.batches("another") == []
            await store.end_batch("f")
            assert store.batches("e") == []

    asyncio.run(noted())
    assert openai_batch._asked(requests[2]).messages[0]["content"] == "lone \ud800 surrogate"
    assert keyed(openai_batch._asked(requests[1]), {"kind": "x"}) == requests[1]


def test_a_lane_that_opens_wide(server):
    assert Lane("t", Limits(ceiling=100)).width == 1
    wide = ask_with(teacher_of(server), concurrency=100).lane("teacher0")
    assert wide.width == 100
    wide.failed(Retry("ill"), time.monotonic(), "x")
    assert wide.width == 100
    assert openai_batch.Config(model="m").concurrency == 10_000


def test_the_identity_is_the_online_teachers(server):
    online = openai.build(openai.Config(model="m", base_url=server.url), "t")
    assert teacher_of(server).identity == online.identity
    request = Request([{"role": "user", "content": "x"}])
    raw, _, _ = parse_answer(completion("x"), request)
    assert raw["model"] == "test-model"
