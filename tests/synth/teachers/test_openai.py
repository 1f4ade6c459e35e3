"""The openai teacher against a real server on loopback."""

import time

import pytest

from synth.config.generate import Sampling
from synth.core.errors import Unfinished, UserError
from synth.generate import client as buying
from synth.generate import concurrency as lane
from synth.teachers import openai
from synth.teachers._http import client
from synth.teachers._openai import status, token_ids
from tests.helpers.scripted_teacher import ask_with, run, tasks


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(buying, "_backoff", lambda attempt: 0.01)
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sqlite"


def openai_run(api, path, questions=3, **config):
    key = config.pop("key", None)
    teacher = openai.OpenAITeacher(openai.Config(model="m", base_url=api.url, **config), key)
    return run(ask_with(teacher, check=lambda r: [], retries=3), tasks(questions), path)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": "<think>r</think>a"}, ("r", "a")),
        ({"content": "r</think>a"}, ("r", "a")),
        ({"content": "a", "reasoning": "r"}, ("r", "a")),
        ({"content": "a", "reasoning_content": "r"}, ("r", "a")),
        ({"content": None, "reasoning_content": "r"}, ("r", "")),
        ({"content": "a"}, (None, "a")),
    ],
)
def test_reasoning_from_every_field(api, path, message, expected):
    answer = api.completion("")
    answer["choices"][0]["message"] = {"role": "assistant", **message}
    api.reply = lambda body: (200, {}, answer)
    got, _ = openai_run(api, path, 1)
    record = got[0][1][0]
    assert (record.reasoning, record.answer) == expected
    assert record.generation.prompt_tokens == 10
    assert record.generation.model == "test-model"


def test_what_is_sent(api, path):
    teacher = openai.build(
        openai.Config(model="m", base_url=api.url, max_tokens_name="max_completion_tokens"), "t"
    )
    ask = ask_with(teacher, check=lambda r: [])
    ask.sampling = Sampling(
        temperature=0.5, top_k=20, max_tokens=7, seed=3, extra={"reasoning_effort": "low"}
    )
    run(ask, tasks(1), path)
    assert api.received == [
        {
            "model": "m", "messages": [{"role": "user", "content": "question 0"}], "temperature": 0.5,
            "top_k": 20, "max_completion_tokens": 7, "seed": 3, "reasoning_effort": "low",
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "error", "kind", "says"),
    [
        (401, "bad key sk-secret", UserError, "does not accept the key"),
        (403, "forbidden", UserError, "does not accept the key"),
        (404, "no model m", UserError, "knows no model 'm'"),
        (402, "insufficient balance", Unfinished, "used up"),
        (429, "You exceeded your current quota", Unfinished, "used up"),
    ],
)
def test_statuses_that_stop_the_run(api, path, status, error, kind, says):
    api.reply = lambda body: (status, {}, {"error": {"message": error}})
    with pytest.raises(kind, match=says) as caught:
        openai_run(api, path, 20, key="sk-secret")
    assert "sk-secret" not in str(caught.value)
    assert len(api.received) == 1


@pytest.mark.parametrize(
    ("fault", "failed"),
    [
        ((500, {}, "oops"), "status 500"),
        ((502, {}, "<html>bad gateway</html>"), "status 502"),
        ((200, {}, '{"choices": [{"mess'), "malformed response"),
        ((200, {}, {"choices": []}), "malformed response"),
        ((200, {}, "[]"), "malformed response"),
        ((400, {}, {"error": {"message": "too long"}}), "status 400"),
    ],
)
def test_faults_end_in_an_answer_or_a_reason(api, path, fault, failed):
    good = api.reply
    api.reply = lambda body: fault if "question 1" in str(body) else good(body)
    got, counts = openai_run(api, path)
    assert [len(records) for _, records in got] == [1, 0, 1]
    assert counts.failed == {failed: 1}


def test_retry_after_is_obeyed(api, path):
    times = []

    def reply(body):
        times.append(time.monotonic())
        if len(times) == 1:
            return 429, {"Retry-After": "1"}, {"error": {"message": "slow"}}
        return 200, {}, api.completion("x")

    api.reply = reply
    openai_run(api, path, 1)
    assert 0.95 <= times[1] - times[0] < 3


def test_a_slow_answer_times_out_and_is_tried_again(api, path):
    api.latency_s = 2
    _, counts = openai_run(api, path, 1, timeout_s=0.2)
    assert counts.failed == {"timeout": 1}


def test_nothing_listens_at_the_address(path):
    teacher = openai.build(openai.Config(model="m", base_url="http://127.0.0.1:9/v1"), "t")
    with pytest.raises(UserError, match=r"cannot reach http://127\.0\.0\.1:9/v1"):
        run(ask_with(teacher), tasks(5), path)


@pytest.mark.slow
def test_the_key_reaches_the_server_and_no_file(api, tmp_path, distill, write_config):
    config = {
        "name": "r", "tasks": {"train": [{"source": "inline", "tasks": [{"question": "q", "answer": 1}]}]},
        "teachers": {"t": {"kind": "openai", "model": "m", "base_url": api.url, "api_key_env": "MY_KEY"}},
        "generate": {"prompt": {"template": "plain"}}, "filters": ["truncated"],
    }  # fmt: skip
    done = distill("run", write_config(config), env={"MY_KEY": "sk-very-secret"})
    assert done.returncode == 0, done.stderr
    assert api.headers[0]["Authorization"] == "Bearer sk-very-secret"
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert b"sk-very-secret" not in file.read_bytes(), file
    missing = distill("run", write_config(config), env={"MY_KEY": ""})
    assert missing.returncode == 2
    assert "environment variable MY_KEY, which is not set" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_a_rate_limit_without_end_stops_the_run_when_patience_is_over(api, path):
    answered = []

    def reply(body):
        if len(answered) < 3:
            answered.append(body)
            return 200, {}, api.completion("x")
        return 429, {"Retry-After": "0"}, {"error": {"message": "slow down"}}

    api.reply = reply
    teacher = openai.build(openai.Config(model="m", base_url=api.url), "t")
    start = time.monotonic()
    with pytest.raises(
        Unfinished, match=r"no answer for .* s, the last was: status 429: slow down"
    ):
        run(ask_with(teacher, patience_s=0.5, concurrency=4), tasks(20), path)
    assert time.monotonic() - start < 10
    assert len(api.received) < 100


def test_a_moved_address_gets_neither_the_key_nor_the_question(api, path):
    api.reply = lambda body: (307, {"Location": "http://elsewhere.invalid/v1"}, "")
    with pytest.raises(UserError, match=r"is moved to 'http://elsewhere\.invalid/v1' \(307\)"):
        openai_run(api, path)


def test_a_body_without_end_is_not_read_to_the_end_of_memory(api, path, monkeypatch):
    monkeypatch.setattr(client, "LARGEST_ANSWER", 10_000)
    good = api.completion("x")
    api.reply = lambda body: (
        200,
        {},
        api.completion("y" * 20_000) if "question 1" in str(body) else good,
    )
    _, counts = openai_run(api, path)
    assert counts.failed == {"malformed response": 1}


def test_continue_with_prefix_is_translated(api, path):
    from synth.config.generate import Truncation

    texts = iter([("<think>a", "length"), ("b</think>c", "stop")])
    api.reply = lambda body: (200, {}, api.completion(*next(texts)))
    teacher = openai.build(openai.Config(model="m", base_url=api.url, continue_with="prefix"), "t")
    got, _ = run(
        ask_with(teacher, truncation=Truncation(policy="continue", alarm=None)), tasks(1), path
    )
    assert (got[0][1][0].reasoning, got[0][1][0].answer) == ("ab", "c")
    assert api.received[1]["messages"][-1] == {
        "role": "assistant",
        "content": "<think>a",
        "prefix": True,
    }
    assert "continue_final_message" not in api.received[1]


def test_an_advertised_limit_is_waited_for(api, path):
    times = []

    def reply(body):
        times.append(time.monotonic())
        left = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "300ms"}
        return 200, left if len(times) == 2 else {}, api.completion("x")

    api.reply = reply
    teacher = openai.build(openai.Config(model="m", base_url=api.url), "t")
    run(ask_with(teacher, concurrency=1), tasks(3), path)
    assert 0.28 <= times[2] - times[1] < 3


@pytest.mark.parametrize("after", ["0.6", "date"])
def test_retry_after_in_seconds_or_as_a_date(after):
    from email.utils import formatdate

    headers = {
        "retry-after": formatdate(time.time() + 30, usegmt=True) if after == "date" else after
    }
    seconds = status.retry_after(headers)
    assert seconds == pytest.approx(30 if after == "date" else 0.6, abs=1.5)
    assert status.retry_after({"retry-after-ms": "250"}) == 0.25


@pytest.mark.slow
def test_ids_by_the_tokenizer_are_those_of_the_tokens(smollm2):
    pytest.importorskip("transformers")
    id_of = token_ids.ids_by_bytes(smollm2.name_or_path)
    ids = smollm2("So 12 + 30 = 42, d'accord? 一二三\n\n\\boxed{42}")["input_ids"]
    for id in ids:
        piece = token_ids._token_bytes(smollm2.convert_ids_to_tokens(id))
        assert id_of({"token": piece.decode("utf-8", "replace"), "bytes": list(piece)}) == id
