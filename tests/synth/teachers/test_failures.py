"""What failures of an API mean: of a request, of all requests, or of the moment."""

import json
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.core.errors import Unfinished, UserError
from synth.generate import client as buying
from synth.generate import concurrency as lane
from synth.teachers import openai
from synth.teachers._openai import waits
from synth.teachers._openai.refusals import read_refusal
from synth.teachers._openai.status import StatusErrors
from synth.teachers.base import RequestRejected, RetryableError
from tests.helpers.scripted_teacher import ask_with, run, tasks

GEMINI = (
    "You exceeded your current quota, please check your plan and billing details.\n* Quota "
    "exceeded for metric: input_token_count, limit: 4000000\nPlease retry in 2.4s."
)
QUOTA = "You exceeded your current quota, please check your plan and billing details."


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(buying, "_backoff", lambda attempt: 0.01)
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 0.01)


def ask(api, path, questions=12, name="t", **options):
    teacher = openai.OpenAITeacher(openai.Config(model="m", base_url=api.url), None)
    spec = ask_with(teacher, check=lambda r: [], retries=2, concurrency=4, **options)
    return run(spec, tasks(questions), path)


def errors(base_url="http://127.0.0.1:9/v1"):
    return StatusErrors(base_url, "m", "sk-secret", "KEY", "t")


def failure(status, error, base_url="http://127.0.0.1:9/v1", **headers):
    body = error if isinstance(error, bytes) else json.dumps(error).encode()
    return errors(base_url).error(status, headers, body)


@pytest.mark.parametrize(
    ("message", "param", "kind", "hint"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
         "'max_completion_tokens' instead.", "max_tokens", "parameter",
         "set teachers.t.max_tokens_name: max_completion_tokens"),
        ("Unsupported value: 'temperature' does not support 0.5 with this model. Only the default "
         "(1) value is supported.", "temperature", "parameter", "generate.sampling.temperature"),
        ("temperature and top_p cannot both be specified for this model.", "", "parameter",
         "generate.sampling.temperature"),
        ("Unsupported value: 'messages[0].role' does not support 'system' with this model.",
         "messages[0].role", "parameter", "generate.prompt.template"),
        ("System role not supported", "", "parameter", "generate.prompt.template"),
        ("max_tokens is too large: 100000. This model supports at most 16384 completion tokens",
         "max_tokens", "parameter", "generate.sampling.max_tokens"),
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", "", "parameter",
         "generate.sampling.max_tokens"),
        ("property 'top_k' is unsupported", "", "parameter", "generate.sampling.top_k"),
        ('Invalid JSON payload received. Unknown name "top_k": Cannot find field.', "", "parameter",
         "generate.sampling.top_k"),
        ("Unrecognized request argument supplied: reasoning_effort", "", "parameter",
         "generate.sampling.extra.reasoning_effort"),
        ("parameter.enable_thinking must be set to false for non-streaming calls", "", "parameter",
         "teachers.t.stream: true"),
        ("This model's maximum context length is 4096 tokens. However, you requested 9000 tokens "
         "(1000 in the messages, 8000 in the completion).", "", "parameter",
         "generate.sampling.max_tokens"),
        ("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens "
         "(1000 in the messages, 4000 in the completion).", "messages", "content", ""),
        ("This model's maximum context length is 4096 tokens. However, you requested 12000 tokens.",
         "", "content", ""),
        ("The response was filtered due to the prompt triggering our content management policy.",
         "prompt", "content", ""),
        ("Your input was flagged", "", "content", ""),
        ("too long", "", "content", ""),
        ("Your credit balance is too low to access the API.", "", "balance", ""),
        ("API key not valid. Please pass a valid API key.", "", "key", ""),
        ("xyz is not a valid model ID", "", "model", ""),
        ("oops", "", "unknown", ""),
    ],
)  # fmt: skip
def test_what_a_400_refuses(message, param, kind, hint):
    refusal = read_refusal(message, "", param, "t")
    assert refusal.kind == kind
    assert hint in refusal.hint


@given(st.text(max_size=300), st.text(max_size=40), st.text(max_size=40))
def test_no_words_of_a_refusal_are_too_odd(message, code, param):
    assert read_refusal(message, code, param, "t").kind


@pytest.mark.parametrize(
    ("error", "headers", "seconds"),
    [
        ([{"error": {"code": 429, "message": GEMINI, "details": [
            {"@type": "QuotaFailure"}, {"@type": "RetryInfo", "retryDelay": "2s"}]}}], {}, 2.0),
        ({"error": {"message": GEMINI}}, {}, 2.4),
        ({"error": {"message": QUOTA, "code": "Throttling.AllocationQuota",
                    "type": "insufficient_quota"}}, {}, None),
        ({"error": {"message": QUOTA, "type": "insufficient_quota"}}, {"retry-after": "1"}, 1.0),
        ({"error": {"message": "Rate limit reached. Please try again in 1m30s."}}, {}, 90.0),
        ({"error": {"message": "slow down"}}, {"retry-after": "nan"}, None),
        ({"error": {"message": "slow down", "metadata": {"retry_after": 7}}}, {}, 7.0),
        ({"error": "slow down"}, {"x-ratelimit-reset": "3"}, 3.0),
    ],
)  # fmt: skip
def test_a_limit_on_the_rate_is_no_empty_balance(error, headers, seconds):
    limit = failure(429, error, **headers)
    assert isinstance(limit, RetryableError)
    assert (limit.trouble, limit.after) == ("rate limit", seconds)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, {"error": {"message": QUOTA, "code": "insufficient_quota"}}),
        (429, {"error": {"message": "Insufficient account balance"}}),
        (402, {"error": {"message": "Insufficient Balance"}}),
        (400, {"error": {"message": "Access denied, account overdue", "code": "Arrearage"}}),
    ],
)
def test_an_empty_balance_ends_the_teacher(status, error):
    assert isinstance(failure(status, error), Unfinished)


@pytest.mark.parametrize(
    ("body", "base_url", "hint"),
    [
        (b"404 page not found", "http://h:1", True),
        (b'{"detail": "Not Found"}', "http://h:1/", True),
        (b"<html>Not Found</html>", "http://h:1/v1", False),
        (b'{"error": {"message": "the model m does not exist"}}', "http://h:1", False),
    ],
)
def test_an_address_without_v1_gets_a_hint(body, base_url, hint):
    words = str(failure(404, body, base_url).if_all.error)
    assert ("base_url mostly ends in /v1: http://h:1/v1" in words) == hint


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1), ("6m0s", 360), ("20ms", 0.02), ("1h2m", 3720), ("1.5", 1.5), ("1m30s", 90),
        ("26 seconds", 26), ("2.400s", 2.4), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), (" 3 ", 3),
        ("2015-10-21T07:28:00Z", 0), ("1700000000", 0), ("", None), ("soon", None), ("nan", None),
        ("inf", None), ("-1", None), ("1e5", None), ("99999999", None), ("²", None),
    ],
)  # fmt: skip
def test_spans_and_times(text, seconds):
    assert waits.seconds_of(text) == (None if seconds is None else pytest.approx(seconds))


def test_times_to_come():
    now = time.time()
    for text in (
        str(int(now + 30)),
        str(int(1000 * now) + 30_000),
        formatdate(now + 30, usegmt=True),
    ):
        assert waits.seconds_of(text) == pytest.approx(30, abs=1.5)


@given(st.text() | st.floats().map(str) | st.integers().map(str))
def test_no_span_or_header_is_too_odd(text):
    seconds = waits.seconds_of(text)
    assert seconds is None or 0 <= seconds <= 7 * 86400
    asked = waits.retry_after({"retry-after": text, "retry-after-ms": text})
    assert asked is None or 0 <= asked <= 7 * 86400
    limits = {"x-ratelimit-remaining-requests": text, "x-ratelimit-reset-requests": text}
    assert 0 <= waits.advertised(limits).wait() <= 600


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["error", "message", "detail", "details", "code", "param",
                                       "msg", "loc", "retryDelay"]), inner, max_size=4),
    max_leaves=12).map(lambda values: json.dumps(values).encode()),
    st.sampled_from([302, 400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 503, 529]))  # fmt: skip
def test_every_body_means_something(body, status):
    error = errors().error(status, {}, body)
    assert isinstance(error, RetryableError | RequestRejected | UserError | Unfinished)
    assert len(str(error)) < 900


def refuses(api, refused, answer):
    good = api.reply
    api.reply = lambda body: answer if refused(body["messages"][-1]["content"]) else good(body)


def error(status, message):
    return status, {}, {"error": {"message": message}}


@pytest.mark.parametrize(
    ("answer", "says", "sent"),
    [
        (error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
         r"Use 'max_completion_tokens' instead\. -- set teachers\.teacher0\.max_tokens_name", 1),
        (error(422, "Extra inputs are not permitted: top_k"), "generate.sampling.top_k", 1),
        (error(403, "forbidden"), "does not accept the key", 1),
        (error(404, "no such model"), "knows no model", 1),
        (error(400, "oops"), "refused the first 3 different requests, the last: status 400: oops", 3),
        (error(403, "your input was flagged"), "refused the first 20 different requests", 20),
        ((200, {}, "<html>hello</html>"), "the first answers to 5 different requests are no", 5),
    ],
)  # fmt: skip
def test_where_every_request_fails_the_first_ones_end_the_run(api, path, answer, says, sent):
    refuses(api, lambda question: True, answer)
    with pytest.raises(UserError, match=says):
        ask(api, path, 60)
    assert len(api.received) == sent


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sqlite"


@pytest.mark.parametrize(
    "answer", [error(400, "oops"), error(403, "flagged"), error(413, "too long")]
)
def test_a_first_question_that_is_refused_lets_the_others_be_asked(api, path, answer):
    refuses(api, lambda question: question in ("question 0", "question 1"), answer)
    for bought in (10, 0):  # a rerun has only the refused ones
        _, counts = ask(api, path)
        assert (counts.bought, counts.failed.total()) == (bought, 2)
    assert f"question t0: status {answer[0]}: " in next(iter(counts.failed_examples.values()))


@pytest.mark.parametrize("status", [403, 404])
def test_a_403_or_404_after_answers_is_that_questions(api, path, status):
    refuses(api, lambda question: question == "question 6", error(status, "not this one"))
    _, counts = ask(api, path)
    assert (counts.bought, counts.failed) == (11, {f"status {status}": 1})
    assert len(api.received) == 11 + (1 if status == 403 else 3)


@pytest.mark.parametrize(("status", "says"), [(401, "key"), (403, "key"), (404, "knows no model")])
def test_a_key_or_model_that_is_withdrawn_in_the_middle_ends_the_teacher(api, path, status, says):
    refuses(api, lambda question: int(question.split()[1]) >= 20, error(status, "gone"))
    with pytest.raises(UserError, match=says):
        ask(api, path, 200)
    assert len(api.received) < 60


def test_a_pause_longer_than_the_patience_ends_the_teacher(api, path):
    api.reply = lambda body: (429, {"Retry-After": "3600"}, {"error": {"message": "slow down"}})
    with pytest.raises(
        Unfinished, match=r"asks to wait 3600 s, which is more than patience_s \(5\)"
    ):
        ask(api, path, patience_s=5)
    assert len(api.received) == 1
