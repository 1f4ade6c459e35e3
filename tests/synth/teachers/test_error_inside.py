"""Errors inside a status 200 mean what the same status would mean."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.core.errors import Unfinished, UserError
from synth.generate import client as buying
from synth.generate import concurrency as lane
from synth.store import usage
from synth.store.responses import ResponseMetadata, ResponseStore
from synth.teachers import openai
from synth.teachers._openai.error_inside import error_inside
from tests.helpers.scripted_teacher import Scripted, ask_with, completion, run, tasks


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(buying, "_backoff", lambda attempt: 0.01)
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sqlite"


ERRORS = [
    ({"error": {"code": 429, "message": "m"}}, 429),
    ({"choices": None, "error": {"code": "404", "message": "m"}}, 404),
    ({"choices": [], "error": {"message": "m", "status": "RESOURCE_EXHAUSTED"}}, 429),
    ({"error": {"message": "m", "type": "rate_limit_exceeded"}}, 429),
    ({"error": {"message": "m", "code": "invalid_api_key"}}, 401),
    ({"error": {"message": "m", "code": "context_length_exceeded"}}, 400),
    ({"error": {"message": "m"}}, 500),
    ({"error": "model not found, m"}, 404),
    ({"object": "error", "message": "m", "code": 400}, 400),
    ({"detail": "m"}, 500),
    ({"choices": None, "base_resp": {"status_code": 1002, "status_msg": "m"}}, 429),
    ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "m"}}, 402),
    ({**completion("x", "error"), "error": {"code": 502, "message": "m"}}, 502),
    ({"choices": [{"message": {"content": "x"}, "finish_reason": "stop", "error": {"code": 503, "message": "m"}}]}, 503),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "status"), ERRORS)
def test_the_status_that_an_error_stands_for(answer, status):
    for form in (answer, json.dumps(answer).encode()):
        inner = error_inside(form)
        assert inner.status == status
        assert "m" in json.loads(inner.body)["error"]["message"]


@pytest.mark.parametrize(
    "answer",
    [
        completion("x"),
        completion('{"error": "this is what the model wrote"}'),
        {**completion("x"), "error": None},
        {**completion("x"), "error": {"message": "a remark"}},
        {**completion("x"), "base_resp": {"status_code": 0, "status_msg": ""}},
        {"choices": []},
        {},
    ],
)
def test_what_holds_no_error(answer):
    assert error_inside(answer) is None
    assert error_inside(json.dumps(answer).encode()) is None


def test_the_words_of_the_models_provider_and_its_headers_are_kept():
    inner = error_inside(
        {"error": {"message": "Provider returned error", "code": 429,
                   "metadata": {"raw": "Too Many Requests", "headers": {"Retry-After": 3}}}}
    )  # fmt: skip
    assert "Provider returned error: Too Many Requests" in inner.body.decode()
    assert inner.headers == {"retry-after": "3"}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(
        st.sampled_from(["error", "choices", "code", "message", "metadata", "raw", "headers",
                         "base_resp", "status_code", "finish_reason", "detail", "status"]),
        inner,
    ),
)  # fmt: skip


@given(values)
def test_no_json_is_too_odd(value):
    for answer in (value, {"error": value}, {"choices": [value]}, {"base_resp": value}):
        inner = error_inside(answer)
        assert inner is None or 300 <= inner.status < 600
    error_inside(json.dumps({"error": value}).encode())


def ask_api(api, path, number=3, **options):
    teacher = openai.build(openai.Config(model="m", base_url=api.url), "t")
    return run(ask_with(teacher, retries=2, **options), tasks(number), path)


def test_an_error_of_a_wrong_model_stops_at_the_first_request(api, path):
    api.reply = lambda body: (200, {}, {"error": {"code": 404, "message": "No allowed providers"}})
    with pytest.raises(UserError, match="No allowed providers"):
        ask_api(api, path)
    assert len(api.received) == 1


def test_an_empty_balance_inside_a_200_ends_the_run(api, path):
    api.reply = lambda body: (200, {}, {"error": {"code": 402, "message": "Insufficient credits"}})
    with pytest.raises(Unfinished, match="Insufficient credits"):
        ask_api(api, path)


def test_a_flagged_question_is_that_questions_failure(api, path):
    good = api.completion("x")
    flagged = {"error": {"code": 400, "message": "flagged"}}
    api.reply = lambda body: (200, {}, flagged if "question 1" in str(body) else good)
    _, counts = ask_api(api, path)
    assert counts.failed == {"status 400": 1}
    assert counts.bought == 2
    assert [*usage.failures(path).values()] == [
        "status 400: flagged (an error inside a status 200)"
    ]


def test_what_passes_is_asked_again_and_what_was_refused_is_not(api, path):
    attempts = []

    def reply(body):
        question = body["messages"][-1]["content"]
        attempts.append(question)
        if question == "question 1" and attempts.count(question) == 1:
            return 200, {}, api.completion("The ans", "insufficient_system_resource")
        if question == "question 2":
            return 200, {}, api.completion("The ans", "content_filter")
        if question == "question 3" and attempts.count(question) == 1:
            return 200, {}, api.completion(None)
        if question == "question 4":
            return 200, {}, api.completion("")
        return 200, {}, api.completion("x")

    api.reply = reply
    got, counts = ask_api(api, path, number=5)
    assert [len(records) for _, records in got] == [1, 1, 0, 1, 0]
    assert counts.failed == {"finish reason content_filter": 1, "malformed response": 1}
    assert [attempts.count(f"question {n}") for n in range(5)] == [1, 2, 1, 2, 3]
    with ResponseStore(path) as store:
        assert store.count() == 3
    assert "malformed response: empty: no text, no reasoning, no call of a tool" in usage.failures(path).values()  # fmt: skip


@pytest.mark.parametrize(
    "old",
    [completion("The ans", "error"), completion("", "stop"), completion("x", "content_filter")],
)
def test_what_an_old_store_holds_that_is_no_answer_is_set_aside_and_asked_again(old, path):
    import asyncio

    teacher = Scripted(lambda request, number: "good")
    ask = ask_with(teacher, run="r")
    from synth.core.record import Request
    from synth.store.keys import request_key

    async def put(store, question):
        messages = ask.prompt.messages(question, {})
        request = Request(messages, ask.sampling.parameters(0), 0)
        key = request_key(request, teacher.identity)
        await store.persist(key, json.dumps(old).encode(), ResponseMetadata("r", "teacher0", 5, 6))

    with ResponseStore(path) as store:
        asyncio.run(put(store, tasks(1)[0]))
    got, counts = run(ask, tasks(2), path)
    assert [records[0].answer for _, records in got] == ["good", "good"]
    assert counts.set_aside.total() == 1
    assert (counts.bought, counts.reused) == (2, 0)
    _, counts = run(ask, tasks(2), path)
    assert (counts.bought, counts.reused, counts.set_aside.total()) == (0, 2, 0)
    with ResponseStore(path) as store:
        assert store.count() == len(list(usage.entries(path))) == 2
        # What it cost stays on the account.
        assert store.spent("r")["teacher0"].responses == 3


def test_an_empty_answer_of_an_engine_is_what_the_model_wrote(path):
    teacher = Scripted(lambda request, number: "")
    teacher.empty_answers = True
    got, counts = run(ask_with(teacher), tasks(2), path)
    assert [records[0].answer for _, records in got] == ["", ""]
    assert (counts.bought, counts.retried.total()) == (2, 0)
