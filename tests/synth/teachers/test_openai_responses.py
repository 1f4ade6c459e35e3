"""The Responses API: what is sent, and what its output items become."""

import pytest

from synth.core.errors import ConfigError, Unfinished, UserError
from synth.core.usage import usage_of
from synth.teachers import RequestRejected, RetryableError
from tests.helpers.dialect_server import CUT, DialectServer, events
from tests.helpers.teachers import ask, build, parts


def response(*items, status="completed", **more):
    usage = {
        "input_tokens": 11, "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 30, "output_tokens_details": {"reasoning_tokens": 20}, "total_tokens": 41,
    }  # fmt: skip
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "status": status, "error": None,
        "incomplete_details": None, "model": "o-pro-1", "output": list(items), "usage": usage, **more,
    }  # fmt: skip


def reasoning(*texts, **more):
    summary = [{"type": "summary_text", "text": text} for text in texts]
    return {"type": "reasoning", "id": "rs_1", "summary": summary, **more}


def message(*texts, kind="output_text", key="text"):
    content = [{"type": kind, key: text, "annotations": []} for text in texts]
    return {"type": "message", "id": "msg_1", "role": "assistant", "content": content}


def answered(body, status=200, sampling=None, **options):
    with DialectServer(lambda call: (status, {}, body)) as server:
        raw = ask(build("openai_responses", server.url, **options), **(sampling or {}))
        return raw, server.calls[0]


def test_what_is_sent():
    _, call = answered(response(message("a")), sampling={"temperature": 1}, reasoning_effort="high")
    assert call.path == "/responses"
    assert call.body == {
        "model": "m", "input": [{"role": "user", "content": "What is 1 + 1?"}], "store": False,
        "reasoning": {"effort": "high", "summary": "auto"}, "max_output_tokens": 50, "temperature": 1,
    }  # fmt: skip
    _, call = answered(response(message("a")), reasoning_summary=None)
    assert "reasoning" not in call.body


def test_items_become_a_chat_completion_and_stay_beside_it():
    native = response(reasoning("First.", "Then."), message("\\boxed{", "2}"))
    raw, _ = answered(native)
    assert parts(raw) == ("First.\n\nThen.", "\\boxed{2}", "stop")
    assert raw["native"] == native
    assert (raw["model"], raw["id"]) == ("o-pro-1", "resp_1")
    assert usage_of(raw, None)[:2] == (11, 30)
    assert raw["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert raw["usage"]["completion_tokens_details"] == {"reasoning_tokens": 20}


def test_reasoning_itself_wins_over_its_summary():
    whole = reasoning("short", content=[{"type": "reasoning_text", "text": "long"}])
    assert parts(answered(response(whole, message("a")))[0])[0] == "long"


def incomplete(reason):
    return response(message("half"), status="incomplete", incomplete_details={"reason": reason})


def test_an_incomplete_response_says_why():
    assert parts(answered(incomplete("max_output_tokens"))[0]) == (None, "half", "length")
    with pytest.raises(RequestRejected, match="finish reason content_filter"):
        answered(incomplete("content_filter"))


def test_refusals_and_calls():
    with pytest.raises(RequestRejected, match=r"finish reason content_filter: I cannot\."):
        answered(response(message("I cannot.", kind="refusal", key="refusal")))
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    raw, _ = answered(response(call))
    assert parts(raw)[2] == "tool_calls"
    assert raw["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "f"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "server_error", "message": "x"}, RetryableError),
        ({"code": "rate_limit_exceeded", "message": "x"}, RetryableError),
        ({"code": "invalid_prompt", "message": "x"}, RequestRejected),
        ({"code": 402, "message": "x"}, Unfinished),
    ],
)
def test_a_failed_response_is_what_its_code_says(error, kind):
    failed = response(status="failed", error=error)
    with pytest.raises(kind):
        answered(failed)
    with pytest.raises(kind):
        answered([events({"type": "response.failed", "response": failed})], stream=True)
    with pytest.raises(kind):
        answered([events(("error", {"type": "error", **error}))], stream=True)


@pytest.mark.parametrize(
    "body",
    [
        response(status="in_progress"), response(status="queued"), {}, [1], "{", {"output": []},
        {"status": "completed", "output": None},
    ],
)  # fmt: skip
def test_what_is_no_whole_response_is_asked_again(body):
    with pytest.raises(RetryableError):
        answered(body)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, UserError), (400, RequestRejected), (500, RetryableError)]
)
def test_statuses(status, kind):
    with pytest.raises(kind):
        answered({"error": {"message": "x"}}, status)


def test_streams():
    start = {"type": "response.created", "response": response(status="in_progress")}
    delta = {"type": "response.output_text.delta", "delta": "a"}
    end = {"type": "response.completed", "response": response(reasoning("r"), message("a"))}
    raw, call = answered([events((start["type"], start), delta, end)], stream=True)
    assert parts(raw) == ("r", "a", "stop")
    assert call.body["stream"] is True
    for cut in ([events(start, delta)], [events(start, delta), CUT]):
        with pytest.raises(RetryableError, match="connection cut"):
            answered(cut, stream=True)


def test_parameters_that_the_api_lacks_are_refused_before_anything_is_asked(write_config):
    from synth.config.validate import load_run

    config = {
        "name": "r",
        "tasks": {"train": [{"source": "inline", "tasks": [{"question": "q", "answer": 1}]}]},
        "teachers": {"big": {"kind": "openai_responses", "model": "m"}},
        "generate": {
            "prompt": {"template": "plain"}, "truncation": {"policy": "continue"},
            "sampling": {"seed": 1, "stop": ["x"], "top_k": 3, "top_logprobs": 5, "temperature": 1},
        },
        "filters": ["truncated"],
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_run(str(write_config(config)))
    keys = {problem.key for problem in caught.value.problems}
    sampling = {f"generate.sampling.{name}" for name in ("seed", "stop", "top_k", "top_logprobs")}
    assert keys == sampling | {"generate.truncation.policy"}
    assert "teacher big (kind: openai_responses) takes no seed" in str(caught.value)
    with pytest.raises(UserError, match="has no sampling parameter seed"):
        answered(response(message("a")), sampling={"seed": 1})
