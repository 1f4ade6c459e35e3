"""The batch API as a teacher: one file of requests, one of answers, and all that can go wrong."""

import time
from collections import Counter

import pytest

from synth.config.generate import Budget, Samples, Sampling
from synth.core.errors import Unfinished, UserError
from synth.core.logprobs import unpack
from synth.generate.concurrency import ConcurrencyController, Limits
from synth.store.responses import ResponseStore
from synth.teachers import openai, openai_batch
from synth.teachers.base import RetryableError
from tests.helpers.batch_server import (
    BatchServer,
    completion,
    config_of,
    error,
    manifest,
    stored,
    teacher_of,
    text_of,
)
from tests.helpers.scripted_teacher import ask_with, run, tasks

KEY = "sk-test-5f2c"


@pytest.fixture
def server():
    server = BatchServer()
    yield server
    server.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sqlite"


@pytest.mark.slow
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


@pytest.mark.slow
def test_answers_bought_in_a_batch_are_those_of_the_online_teacher(
    server, tmp_path, distill, write_config
):
    assert distill("generate", write_config(config_of(server))).returncode == 0
    online = config_of(server, kind="openai") | {"name": "c"}
    done = distill("generate", write_config(online, "online.yaml"))
    assert done.returncode == 0 and server.asked == []


def odd(line):
    """Answers half of the requests: those of even numbers."""
    return None if int(text_of(line).split()[1]) % 2 else (200, completion(text_of(line)))


@pytest.mark.slow
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
    with ResponseStore(path) as store:
        assert store.batches(teacher_of(server)._endpoint) == []


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
    with ResponseStore(path) as store:
        assert store.batches(teacher_of(server)._endpoint) == []


def test_a_line_that_says_the_money_is_gone_stops_the_run(server, path):
    server.answer = lambda body: (
        error(429, "gone", "insufficient_quota") if "1" in text_of(body) else (200, completion("x"))
    )
    with pytest.raises(Unfinished, match="quota is used up"):
        run(ask_with(teacher_of(server)), tasks(3), path)
    with ResponseStore(path) as store:
        assert store.count() == 2


def test_lines_that_are_none(server, path):
    """Files with broken, foreign and doubled lines: what is missing is asked online."""
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
    with ResponseStore(path) as store:
        assert store.count() == 4


@pytest.mark.slow
def test_a_wrong_key_ends_the_run_with_the_first_call(server, distill, write_config):
    server.fault = lambda method, path: error(401, f"wrong key {KEY}")
    path = write_config(config_of(server, api_key_env="BATCH_KEY"))
    done = distill("generate", path, env={"BATCH_KEY": KEY})
    assert done.returncode == 2, done.stderr
    assert "does not accept the key (from BATCH_KEY)" in done.stderr
    assert KEY not in done.stderr + done.stdout
    assert server.calls == ["POST /files"]


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (error(403, "no"), UserError, "does not accept the key"),
        (error(404, "what"), UserError, "kind: openai_batch needs the files and batches endpoints"),
        (error(400, "bad file"), UserError, "POST /files: status 400: bad file"),
        (error(429, "gone", "insufficient_quota"), Unfinished, "the balance or quota is used up"),
    ],
)
def test_an_upload_that_is_refused_ends_the_run_at_once(server, path, fault, kind, said):
    server.fault = lambda method, path: fault
    with pytest.raises(kind, match=said):
        run(ask_with(teacher_of(server)), tasks(3), path)
    assert server.calls == ["POST /files"]


@pytest.mark.slow
def test_a_wrong_address_ends_the_run(server, path):
    with pytest.raises(UserError, match="cannot reach"):
        run(ask_with(teacher_of(server, base_url="http://127.0.0.1:9/v1")), tasks(3), path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("invalid_json_line", UserError, "invalid_json_line: said so"),
        ("billing_hard_limit_reached", Unfinished, "used up: said so"),
        ("token_limit_exceeded", Unfinished, "said so; lower max_requests"),
    ],
)
def test_a_batch_that_fails_validation(server, path, code, kind, said):
    server.ends = lambda batch: ("failed", [{"code": code, "message": "said so"}])
    with pytest.raises(kind, match=said):
        run(ask_with(teacher_of(server)), tasks(3), path)
    made = len(server.batches)
    assert made == (2 if code == "token_limit_exceeded" else 1)
    server.ends = lambda batch: ("completed", None)  # nothing of it was bought: a rerun sends it
    _, counts = run(ask_with(teacher_of(server)), tasks(3), path)
    assert counts.bought == 3 and len(server.batches) == made + 1


def test_batches_beyond_the_limit_on_enqueued_tokens_wait_for_room(server, path):
    def fault(method, path):
        if (method, path) == ("POST", "/batches"):
            server.takes_s = 0.0 if server.batches else 600

    def ends(batch):
        if batch["id"] != "batch_1" and server.batches["batch_1"]["status"] != "completed":
            server.batches["batch_1"]["due"] = 0
            return "failed", [{"code": "token_limit_exceeded", "message": "enqueued"}]
        return "completed", None

    server.fault, server.ends = fault, ends
    _, counts = run(ask_with(teacher_of(server, max_requests=3)), tasks(6), path)
    assert counts.bought == 6 and not counts.retried
    assert [batch["status"] for batch in server.batches.values()].count("failed") == 1
    assert len(server.uploads) == 2 and len(set(server.made())) == len(server.made()) == 6


@pytest.mark.parametrize(("limit", "most"), [({"max_requests": 4}, 4), ({"max_bytes": 600}, 2)])
def test_limits_part_the_requests(limit, most, server, path):
    """However long a busy machine takes to gather them, and to say that a file has come."""
    run(ask_with(teacher_of(server, **limit)), tasks(19)[10:], path)
    sizes = [len(batch["requests"]) for batch in server.batches.values()]
    assert max(sizes) == most
    assert len(set(server.made())) == sum(sizes) == 9


@pytest.mark.slow
def test_a_batch_that_takes_too_long_is_cancelled_and_finished_online(server, path):
    server.takes_s, server.answer = 600, odd
    teacher = teacher_of(server, give_up_h=0.5 / 3600)
    _, counts = run(ask_with(teacher), tasks(6), path)
    assert "POST /batches/batch_1/cancel" in server.calls
    assert counts.bought == 6 and len(server.asked) == 3


@pytest.mark.slow
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
    with ResponseStore(path) as store:
        assert store.count() == 4


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


@pytest.mark.parametrize("token_ids", ["vllm", "a-tokenizer"])
def test_soft_labels_come_out_of_a_batch(server, path, token_ids):
    def entry(id, logprob):
        return {"token": f"token_id:{id}", "logprob": logprob}

    content = [{**entry(n, -0.1), "top_logprobs": [entry(n, -0.1), entry(9, -2.0)]} for n in (3, 4)]
    labelled = completion("x")
    labelled["choices"][0]["logprobs"] = {"content": content}
    server.answer = lambda body: (200, labelled)
    teacher = teacher_of(server, token_ids=token_ids)
    teacher._id_of = lambda entry: int(entry["token"].split(":")[1]) + 10  # a tokenizer's ids
    sampling = Sampling(max_tokens=9, top_logprobs=2)
    _, counts = run(ask_with(teacher, sampling=sampling), tasks(2), path)
    assert counts.bought == 2
    body = server.uploads[0][0]["body"]
    assert body["top_logprobs"] == 2
    assert ("return_tokens_as_token_ids" in body) == (token_ids == "vllm")
    more = 0 if token_ids == "vllm" else 10
    with ResponseStore(path) as store:
        for key in server.made():
            labels = unpack(store.labels(key))
            assert labels.token_ids.tolist() == [3 + more, 4 + more]
            assert labels.top_ids.tolist() == [[3 + more, 9 + more], [4 + more, 9 + more]]


def test_a_preview_asks_online(server, path):
    teacher = teacher_of(server)
    teacher.disable_batching()
    run(ask_with(teacher), tasks(2), path)
    assert len(server.asked) == 2 and server.uploads == []


def test_a_lane_that_opens_wide(server):
    assert ConcurrencyController(Limits(ceiling=100)).limit == 1
    wide = ask_with(teacher_of(server), concurrency=100).controller("teacher0")
    assert wide.limit == 100
    wide.on_error(RetryableError("ill"), time.monotonic(), "x")
    assert wide.limit == 100
    assert openai_batch.Config(model="m").concurrency == 10_000


def test_the_identity_is_the_online_teachers(server):
    online = openai.build(openai.Config(model="m", base_url=server.url), "t")
    assert teacher_of(server).identity == online.identity


def test_what_a_batch_did_not_answer_inside_a_200_is_left_over(server, path):
    """An error, an empty answer and one that broke off are asked online; a refusal fails."""
    inside = {
        "question 0": {"error": {"code": 429, "message": "slow down"}},
        "question 1": completion(""),
        "question 2": completion("The ans", "error"),
        "question 3": completion("The ans", "content_filter"),
    }
    server.answer = lambda body: (200, inside[text_of(body)])
    server.online = lambda body: (200, completion("good"))
    got, counts = run(ask_with(teacher_of(server)), tasks(4), path)
    assert [[record.answer for record in records] for _, records in got] == [["good"]] * 3 + [[]]
    assert counts.failed == {"finish reason content_filter": 1}
    assert counts.retried == {"left over by a batch": 3}
    assert len(server.batches) == 1 and len(server.asked) == 3
    with ResponseStore(path) as store:
        assert store.count() == 3 and store.batches(teacher_of(server)._endpoint) == []
