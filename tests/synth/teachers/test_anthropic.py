"""The Messages API of Anthropic on loopback: requests, answers, streams and faults."""

import json

import pytest

from synth.core.errors import ConfigError, Unfinished, UserError
from synth.core.usage import usage_of
from synth.teachers import RequestRejected, RetryableError, anthropic
from tests.helpers.dialect_server import CUT, DialectServer, events
from tests.helpers.teachers import QUESTION, ask, build, parts

sdk = pytest.importorskip("anthropic", reason="needs the extra anthropic")

KEY = "sk-ant-REDACTED"
THOUGHT = {"type": "thinking", "thinking": "1 and 1", "signature": "c2ln"}
REDACTED = {"type": "redacted_thinking", "data": "b3BhcXVl"}
TEXT = {"type": "text", "text": "\\boxed{2}", "citations": None}
USAGE = {
    "input_tokens": 10, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2,
    "output_tokens": 30, "output_tokens_details": {"thinking_tokens": 20},
}  # fmt: skip


def message(*blocks, reason="end_turn", usage=USAGE, **more):
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
        "content": list(blocks), "stop_reason": reason, "stop_sequence": None, "usage": usage, **more,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


def answered(body, status=200, headers=None, messages=QUESTION, sampling=None, **options):
    with DialectServer(lambda call: (status, headers or {}, body)) as server:
        raw = ask(build("anthropic", server.url, **options), messages, **(sampling or {}))
        return raw, server.calls[0]


def test_what_is_sent_is_what_the_sdk_sends():
    chat = [{"role": "system", "content": "Be brief."}, *QUESTION]
    with DialectServer(lambda call: (200, {}, message(TEXT))) as server:
        ask(build("anthropic", server.url, thinking_budget=1024, effort="high"), chat,
            max_tokens=2000, stop=["END"])  # fmt: skip
        sdk.Anthropic(api_key=KEY, base_url=server.url, max_retries=0).messages.create(
            model="m", system="Be brief.", messages=QUESTION, max_tokens=2000,
            stop_sequences=["END"], output_config={"effort": "high"},
            thinking={"type": "enabled", "budget_tokens": 1024, "display": "summarized"},
        )  # fmt: skip
        ours, theirs = server.calls
    assert (ours.path, ours.body) == (theirs.path, theirs.body)
    for name in ("anthropic-version", "Authorization", "X-Api-Key", "Content-Type"):
        assert ours.headers.get(name) == theirs.headers.get(name), name
    assert KEY in str(ours.headers)


def test_a_message_becomes_a_chat_completion_and_stays_beside_it():
    native = message(THOUGHT, REDACTED, TEXT)
    raw, _ = answered(native)
    assert parts(raw) == ("1 and 1", "\\boxed{2}", "stop")
    assert raw["native"] == native
    assert (raw["id"], raw["model"]) == ("msg_1", "claude-x")
    assert usage_of(raw, None)[:2] == (16, 30)
    assert raw["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    assert raw["usage"]["completion_tokens_details"]["reasoning_tokens"] == 20
    assert sdk.types.Message.model_validate(raw["native"]).content[1].data == REDACTED["data"]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"), ("refusal", "content_filter"),
        ("pause_turn", "error"), ("something_new", "something_new"),
    ],
)  # fmt: skip
def test_stop_reasons(reason, finish):
    with DialectServer(lambda call: (200, {}, message(TEXT, reason=reason))) as server:
        teacher = build("anthropic", server.url)
        import asyncio

        from synth.core.record import Request

        async def asked():
            got = await teacher.complete(Request(QUESTION, {"max_tokens": 5}, 0))
            await teacher.close()
            return got

        raw = asyncio.run(asked())
    assert raw["choices"][0]["finish_reason"] == finish


def test_calls_of_tools():
    use = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": "é"}}
    raw, _ = answered(message(use, reason="tool_use"))
    (call,) = raw["choices"][0]["message"]["tool_calls"]
    assert (call["id"], call["function"]["name"]) == ("toolu_1", "f")
    assert json.loads(call["function"]["arguments"]) == {"x": "é"}
    assert parts(raw)[2] == "tool_calls"


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "invalid_request_error", RequestRejected),
        (401, "authentication_error", UserError),
        (402, "billing_error", Unfinished),
        (413, "request_too_large", RequestRejected),
        (429, "rate_limit_error", RetryableError),
        (500, "api_error", RetryableError),
        (504, "timeout_error", RetryableError),
        (529, "overloaded_error", RetryableError),
    ],
)
def test_errors(status, kind, expected):
    error = {"type": "error", "error": {"type": kind, "message": f"why {KEY}"}, "request_id": "r"}
    with pytest.raises(expected, match="why") as caught:
        answered(error, status)
    assert KEY not in str(caught.value)
    with pytest.raises(expected, match="why"):  # in the middle of a stream it has no status
        answered([events(("error", error))], stream=True)


def test_retry_after_is_read():
    error = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow"}}
    with pytest.raises(RetryableError) as caught:
        answered(error, 429, {"retry-after": "7"})
    assert (caught.value.after, caught.value.trouble) == (7, "rate limit")


@pytest.mark.parametrize(
    "body",
    [{}, [1], "{", message(TEXT, reason=None), message(TEXT) | {"content": None}, "<html>"],
)
def test_what_is_no_message_is_asked_again(body):
    with pytest.raises(RetryableError):
        answered(body)


def stream_of(native):
    """The events of a message, in the order in which the API sends them."""
    start = {**native, "content": [], "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}
    sent = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, block in enumerate(native["content"]):
        kind = block["type"]
        empty = {"thinking": {**block, "thinking": "", "signature": ""}, "text": {**block, "text": ""},
                 "tool_use": {**block, "input": {}}}.get(kind, block)  # fmt: skip
        sent.append({"type": "content_block_start", "index": index, "content_block": empty})
        deltas = {
            "thinking": [{"type": "thinking_delta", "thinking": p} for p in ("1 and", " 1")]
            + [{"type": "signature_delta", "signature": "c2ln"}],
            "text": [{"type": "text_delta", "text": p} for p in ("\\boxed", "{2}")],
            "tool_use": [{"type": "input_json_delta", "partial_json": p} for p in ("", '{"x"', ": 1}")],
        }.get(kind, ())  # fmt: skip
        sent += [{"type": "content_block_delta", "index": index, "delta": d} for d in deltas]
        sent.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": native["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": 30, "output_tokens_details": {"thinking_tokens": 20}}
    sent.append({"type": "message_delta", "delta": delta, "usage": usage})
    return [(event["type"], event) for event in [*sent, {"type": "message_stop"}]]


def test_a_stream_is_joined_to_the_message_that_it_is():
    native = message(
        THOUGHT, REDACTED, TEXT, {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}}
    )
    raw, call = answered([events(*stream_of(native))], stream=True)
    assert raw["native"] == native
    assert call.body["stream"] is True


def test_a_stream_that_is_cut_is_asked_again():
    sent = stream_of(message(THOUGHT, TEXT))
    for kept in range(1, len(sent)):
        with pytest.raises(RetryableError):
            answered([events(*sent[:kept])], stream=True)
    with pytest.raises(RetryableError):
        answered([events(*sent[:6]), CUT], stream=True)


def test_turns_that_the_api_does_not_have_are_refused_one_by_one():
    late = [*QUESTION, {"role": "system", "content": "x"}]
    tool = [*QUESTION, {"role": "tool", "content": "x"}]
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    for chat in (late, tool, picture):
        with pytest.raises(RequestRejected, match="kind anthropic"):
            answered(message(TEXT), messages=chat)


@pytest.mark.parametrize(
    ("options", "sampling", "keys"),
    [
        ({}, {"seed": 1, "top_logprobs": 5}, {"seed", "top_logprobs"}),
        ({}, {"temperature": 1.5}, {"temperature"}),
        ({"thinking_budget": 2000}, {"temperature": 0.6}, {"temperature"}),
        ({"thinking_budget": 2000}, {"top_k": 3}, {"top_k"}),
        ({"thinking_budget": 2000}, {"max_tokens": 2000}, {"max_tokens"}),
        ({"thinking_budget": 2000}, {"max_tokens": 4000, "temperature": 1, "top_p": 0.97}, set()),
        ({"thinking": "adaptive", "effort": "low"}, {"stop": ["x"], "top_k": 3}, set()),
    ],
)
def test_sampling_that_cannot_be_sent_is_found_by_validate(write_config, options, sampling, keys):
    from synth.config.validate import load_run

    config = {
        "name": "r",
        "tasks": {"train": [{"source": "inline", "tasks": [{"question": "q", "answer": 1}]}]},
        "teachers": {"t": {"kind": "anthropic", "model": "m", **options}},
        "generate": {"prompt": {"template": "plain"}, "sampling": sampling},
        "filters": ["truncated"],
    }
    path, found = str(write_config(config)), set()
    try:
        load_run(path)
    except ConfigError as error:
        found = {problem.key for problem in error.problems}
    assert found == {f"generate.sampling.{key}" for key in keys}


def test_ways_to_think_are_part_of_the_identity():
    plain = anthropic.Config(model="m")
    identities = [
        anthropic.AnthropicTeacher(anthropic.Config(model="m", **options), "k").identity
        for options in ({}, {"thinking": "adaptive"}, {"thinking_budget": 1024}, {"effort": "low"})
    ]
    assert len({json.dumps(identity) for identity in identities}) == 4
    assert identities[0] == {"kind": "anthropic", "base_url": plain.base_url, "model": "m"}
    with pytest.raises(ValueError, match="two ways"):
        anthropic.Config(model="m", thinking="adaptive", thinking_budget=1024)
