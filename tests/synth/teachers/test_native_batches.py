"""Anthropic's and Gemini's batches: answered, left over, refused, killed, and bought once."""

import asyncio
import fnmatch
import json
import random
import time
from collections import Counter

import pytest

from synth.config.generate import Sampling
from synth.core import plugins
from synth.core.errors import Interrupted, UserError
from synth.core.record import Request, Task
from synth.store.keys import request_key
from synth.store.responses import ResponseStore
from synth.teachers import RequestRejected
from tests.helpers.batch_server import config_of, manifest, stored
from tests.helpers.native_batches import AnthropicServer, GeminiServer
from tests.helpers.processes import kill, wait_for
from tests.helpers.scripted_teacher import ask_with, run, tasks

pytest.importorskip("anthropic", reason="needs the extra anthropic")
pytest.importorskip("google.genai", reason="needs the extra gemini")

# What a wrong request is in a batch of each dialect, and what may pass.
REFUSED = {
    "anthropic_batch": ("invalid_request_error", "too long"),
    "gemini_batch": (3, "too long"),
}
PASSING = {"anthropic_batch": ("api_error", "oops"), "gemini_batch": (13, "oops")}


@pytest.fixture(params=[AnthropicServer, GeminiServer], ids=["anthropic", "gemini"])
def server(request, monkeypatch):
    monkeypatch.setenv(request.param.key_env, "k" * 20)
    server = request.param()
    yield server
    server.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sqlite"


def teacher_of(server, **options):
    module = plugins.load("teacher", server.kind)
    quick = {"gather_s": 0.05, "poll_s": 0.02, "model": "m", "base_url": server.url}
    return module.build(module.Config(**{**quick, **options}), "t")


def generated(server, path, questions=3, **options):
    ask = ask_with(teacher_of(server, **options), check=lambda r: [])
    return run(ask, tasks(questions) if isinstance(questions, int) else questions, path)


def noted(path, teacher):
    with ResponseStore(path) as store:
        return store.batches(json.dumps(teacher.identity, sort_keys=True, separators=(",", ":")))


def test_answers_come_out_of_one_batch_and_are_bought_once(server, path):
    got, counts = generated(server, path, 5)
    assert {task.question: records[0].answer for task, records in got} == {
        f"question {n}": f"question {n}" for n in range(5)
    }
    assert all(records[0].reasoning == "t" for _, records in got)
    assert [len(keys) for keys in server.made] == [5]
    assert counts.prompt_tokens == 50
    generated(server, path, 5)
    assert len(server.made) == 1
    assert not server.asked
    assert noted(path, teacher_of(server)) == []


def test_online_and_batch_have_one_identity(server):
    kind = server.kind.removesuffix("_batch")
    module = plugins.load("teacher", kind)
    online = module.build(module.Config(model="m", base_url=server.url), "t")
    assert online.identity == teacher_of(server).identity


def test_what_a_batch_left_over_is_asked_online_or_in_the_next(server, path, tmp_path):
    def answer(body):
        text = json.dumps(body)
        if "question 1" in text:
            return None
        return PASSING[server.kind] if "question 2" in text else server.good("x")

    server.answer = answer
    got, _ = generated(server, path)
    assert sorted(records[0].answer for _, records in got) == [
        "online question 1",
        "online question 2",
        "x",
    ]
    assert len(server.asked) == 2
    rounds = []
    server.answer = lambda body: rounds.append(0) or (None if len(rounds) < 2 else server.good("y"))
    got, _ = generated(server, tmp_path / "other.sqlite", 1, online=False)
    assert got[0][1][0].answer == "y"
    assert len(server.asked) == 2


def test_a_refused_request_of_a_batch_is_that_questions_failure(server, path):
    server.answer = lambda body: (
        REFUSED[server.kind] if "question 1" in json.dumps(body) else server.good("x")
    )
    got, counts = generated(server, path)
    assert [len(records) for _, records in sorted(got, key=lambda g: g[0].id)] == [1, 0, 1]
    assert sum(counts.failed.values()) == 1
    assert not server.asked


def test_a_lost_answer_to_the_making_of_a_batch_makes_no_second_one(server, path):
    server.lose, made = True, server._make

    def make(requests, **more):
        id = made(requests, **more)
        server._tell_next = True
        return id

    server._make = make
    route = server.route

    def routed(call):
        reply = route(call)
        if server.made:
            server.lose = False
        return reply

    server.route = routed
    got, _ = generated(server, path)
    assert [len(keys) for keys in server.made] == [3]
    assert len(got) == 3


@pytest.mark.parametrize("hold", [False, True])
def test_a_batch_that_was_made_and_not_noted_is_found_again(server, path, hold):
    """As after a kill between the making of a batch and the note of its name."""
    other = [Task(f"o{n}", f"other {n}") for n in range(3)]
    generated(server, path, other)  # a batch of as many requests, which has ended
    first = teacher_of(server)

    async def made_and_killed():
        with ResponseStore(path) as store:
            first.open(store, "r")
            sampling = Sampling(max_tokens=9).parameters(0)
            requests = [
                request_key(
                    Request([{"role": "user", "content": t.question}], sampling, 0), first.identity
                )
                for t in tasks(3)
            ]
            first._client.known.clear()
            asking = [
                asyncio.ensure_future(
                    first.complete(Request([{"role": "user", "content": t.question}], sampling, 0))
                )
                for t in tasks(3)
            ]
            while len(server.made) < 2:
                await asyncio.sleep(0.01)
            first.cancel_pending()
            results = await asyncio.gather(*asking, return_exceptions=True)
            assert all(isinstance(result, Interrupted) for result in results)
            await first.close()
            (batch,) = store.batches(first._endpoint)
            batch.id = None
            await store.persist_batch(batch, first._endpoint)
            assert {request.key for request in requests} == {r.key for r in batch.requests}

    server.hold = True
    asyncio.run(made_and_killed())
    server.hold = hold
    if hold:
        import threading

        threading.Timer(0.5, lambda: setattr(server, "hold", False)).start()
    got, _ = generated(server, path)
    assert sorted(records[0].answer for _, records in got) == [f"question {n}" for n in range(3)]
    assert len(server.made) == 2
    assert not server.asked


def test_a_note_without_a_batch_is_asked_anew(server, path):
    from synth.store.responses import Batch

    async def note():
        teacher = teacher_of(server)
        requests = [
            request_key(
                Request(
                    [{"role": "user", "content": t.question}],
                    Sampling(max_tokens=9).parameters(0),
                    0,
                ),
                teacher.identity,
            )
            for t in tasks(3)
        ]
        with ResponseStore(path) as store:
            import time

            await store.persist_batch(
                Batch("inline-3-x", None, time.time(), requests), teacher._endpoint
            )

    asyncio.run(note())
    got, _ = generated(server, path)
    assert len(got) == 3
    assert [len(keys) for keys in server.made] == [3]


def test_a_batch_that_takes_too_long_is_cancelled_and_asked_online(server, path):
    server.hold = True
    got, _ = generated(server, path, give_up_h=0.1 / 3600)
    assert server.cancelled == {1}
    assert len(got) == 3
    assert all(records for _, records in got)


def test_a_wrong_key_and_an_unknown_address_are_said(server, path):
    bad = {"error": {"type": "authentication_error", "code": 401, "message": "bad key"}}
    server.fault = lambda method, path: (401, {}, bad)
    with pytest.raises(UserError, match="does not accept the key"):
        generated(server, path)
    server.fault = lambda method, path: (404, {}, {})
    with pytest.raises(UserError, match="knows no"):
        generated(server, path)
    assert not server.made


def test_faults_on_the_way_are_outlasted(server, path):
    failed = set()

    def fault(method, path):
        call = (method, path)
        if call in failed:
            return None
        failed.add(call)
        return 503, {}, {"error": {"type": "overloaded_error", "code": 503, "message": "busy"}}

    server.fault = fault
    got, _ = generated(server, path)
    assert all(records for _, records in got)
    assert [len(keys) for keys in server.made] == [3]


def test_results_that_are_no_answers_are_left_over(server, path):
    server.answer = lambda body: {"nonsense": 1}
    got, _ = generated(server, path)
    assert sorted(records[0].answer for _, records in got) == [
        f"online question {n}" for n in range(3)
    ]


def test_a_blocked_prompt_of_a_batch_is_refused(monkeypatch, path):
    monkeypatch.setenv("GEMINI_API_KEY", "k")
    server = GeminiServer()
    try:
        server.answer = lambda body: {"promptFeedback": {"blockReason": "SAFETY"}}
        _, counts = generated(server, path, 1)
        assert sum(counts.failed.values()) == 1
        assert not server.asked
    finally:
        server.close()
    assert RequestRejected


# In the order of a batch's life: what is left for the next start is another thing after each.
KINDS_OF_CALL = {
    "anthropic_batch": [
        "POST /v1/messages/batches",
        "GET /v1/messages/batches/b*",
        "GET /v1/messages/batches/b*/results",
    ],
    "gemini_batch": [
        "POST /upload/v1/files",
        "POST /sent",
        "POST /v1/models/m:batchGenerateContent",
        "GET /v1/batches/b*",
        "GET /v1/files/results*",
    ],
}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kill_9_after_every_kind_of_call(server, tmp_path, distill, write_config, start):
    quick = {"gather_s": 0.2, "poll_s": 0.1}
    config = config_of(server, number=40, kind=server.kind, concurrency=5, **quick)
    config["generate"]["sampling"] = {"max_tokens": 50}
    path, draw = write_config(config), random.Random(1)
    for kind in KINDS_OF_CALL[server.kind]:
        before = len(server.calls)
        process = start(path)
        wait_for(lambda kind=kind, n=before: fnmatch.filter(server.calls[n:], kind), 60)
        time.sleep(draw.uniform(0, 0.05))
        assert process.poll() is None, "the generation ended before the kill did"
        kill(process)
    done = distill("generate", path)
    assert done.returncode == 0, done.stderr
    made = Counter(key for keys in server.made for key in keys)
    assert len(made) == 40
    assert set(made.values()) == {1}, "a request was bought twice"
    keys, noted_batches = stored(tmp_path)
    assert sorted(keys) == sorted(made)
    assert noted_batches == 0
    counts = manifest(tmp_path)["counts"]
    assert counts["bought"] + counts["reused"] == 40
    assert not server.asked
