"""Streams of the openai teacher: chunks joined, cuts and errors noticed, whatever the packets."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.core.errors import UserError
from synth.teachers import RetryableError
from synth.teachers._http import client
from synth.teachers._http.events import EventParser
from synth.teachers._openai.stream import ChunkJoiner
from tests.helpers.dialect_server import CUT, DialectServer, events
from tests.helpers.teachers import ask, build, parts


def chunk(delta=None, finish=None, index=0, **more):
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "model": "m-1",
        "choices": [choice],
        **more,
    }


USAGE = {"prompt_tokens": 3, "completion_tokens": 9}
USAGE_CHUNK = {"id": "c1", "model": "m-1", "choices": [], "usage": USAGE}
ANSWER = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "1 and "}),
    chunk({"reasoning_content": "1"}),
    chunk({"content": "\\boxed{"}),
    chunk({"content": "2} 好"}),
    chunk(finish="stop"),
    USAGE_CHUNK,
]


def streamed(*pieces, **options):
    """What the teacher makes of a body sent in these pieces."""
    with DialectServer(lambda call: (200, {}, list(pieces))) as server:
        return ask(build("openai", server.url, stream=True, **options))


def joined(*deltas):
    joiner = ChunkJoiner()
    for delta in deltas:
        joiner.add("", chunk(delta))
    joiner.add("", chunk(finish="stop"))
    return joiner.result()["choices"][0]["message"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_chunks_are_joined_to_one_completion(end):
    raw = streamed(b": keep-alive" + 2 * end.encode(), events(*ANSWER, "[DONE]", end=end))
    assert parts(raw) == ("1 and 1", "\\boxed{2} 好", "stop")
    assert (raw["usage"], raw["model"], raw["id"]) == (USAGE, "m-1", "c1")
    assert raw["object"] == "chat.completion"


def test_a_stream_and_its_usage_are_asked_for():
    with DialectServer(lambda call: (200, {}, [events(*ANSWER, "[DONE]")])) as server:
        ask(build("openai", server.url, stream=True))
        ask(build("openai", server.url, stream=True, stream_usage=False))
        bodies = [call.body for call in server.calls]
    assert bodies[0]["stream"] is True
    assert bodies[0]["stream_options"] == {"include_usage": True}
    assert bodies[1]["stream"] is True
    assert "stream_options" not in bodies[1]


def test_a_server_that_refuses_stream_options_says_how_to_go_on():
    refusal = {"error": {"message": "Unknown parameter: stream_options", "code": 400}}
    with (
        DialectServer(lambda call: (400, {}, refusal)) as server,
        pytest.raises(UserError, match="set stream_usage: false"),
    ):
        ask(build("openai", server.url, stream=True))


def test_a_stream_that_nobody_asked_for_is_read_and_so_is_a_whole_answer_to_a_stream():
    with DialectServer(lambda call: (200, {}, [events(*ANSWER, "[DONE]")])) as server:
        assert parts(ask(build("openai", server.url)))[1] == "\\boxed{2} 好"
    whole = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}
    with DialectServer(lambda call: (200, {}, whole)) as server:
        assert parts(ask(build("openai", server.url, stream=True)))[1] == "a"


@given(st.lists(st.integers(1, 40), max_size=40), st.sampled_from(["\n", "\r\n", "\r"]))
def test_events_do_not_depend_on_the_packets(sizes, end):
    body = b"\xef\xbb\xbf" + events(("message", {"a": "é\u2028"}), {"b": [1]}, "[DONE]", end=end)
    parser, got, at = EventParser(), [], 0
    for size in [*sizes, len(body)]:
        got += parser.feed(body[at : at + size])
        at += size
    got += parser.close()
    assert [event.name for event in got] == ["message", "", "[DONE]"]
    assert [json.loads(event.data) for event in got[:2]] == [{"a": "é\u2028"}, {"b": [1]}]


@given(st.binary(max_size=200), st.integers(1, 20))
def test_no_bytes_break_the_parser(body, size):
    parser, got = EventParser(), []
    for start in range(0, len(body), size):
        got += parser.feed(body[start : start + size])
    got += parser.close()
    whole = EventParser()
    assert got == [*whole.feed(body), *whole.close()]


@pytest.mark.parametrize("kept", range(1, 6))
def test_a_stream_that_ends_early_is_never_whole(kept):
    with pytest.raises(RetryableError, match="connection cut"):
        streamed(events(*ANSWER[:kept]))


@pytest.mark.parametrize(
    "pieces",
    [
        [events(*ANSWER[:4]), CUT],
        [events(*ANSWER), CUT],
        [events(*ANSWER[:4]), events(*ANSWER[4:])[:20]],
        [b"data: nonsense\n\n", events(*ANSWER, "[DONE]")],
        [b"data: [1]\n\n", events(*ANSWER, "[DONE]")],
        [events("[DONE]")],
        [b""],
        [b"<html>busy</html>"],
    ],
)
def test_what_is_no_whole_stream_is_asked_again(pieces):
    with pytest.raises(RetryableError):
        streamed(*pieces)


def test_a_stream_needs_no_done_once_it_gave_a_finish_reason_nor_its_last_line_end():
    assert parts(streamed(events(*ANSWER)))[2] == "stop"
    assert parts(streamed(events(*ANSWER, "[DONE]").rstrip()))[2] == "stop"
    assert streamed(events(*ANSWER).rstrip())["usage"] == USAGE


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "overloaded", "code": 503}},
        {"object": "error", "message": "overloaded", "code": 503},
        ("error", {"message": "overloaded", "code": 503}),
    ],
)
def test_an_error_in_the_middle_of_a_stream_is_no_answer(error):
    with pytest.raises(RetryableError):
        streamed(events(*ANSWER[:4], error, *ANSWER[4:], "[DONE]"))


def test_pauses_between_chunks_have_a_limit_of_their_own():
    slow = [events(*ANSWER[:3]), 0.6, events(*ANSWER[3:], "[DONE]")]
    with pytest.raises(RetryableError, match=r"nothing came for 0\.1 s"):
        streamed(*slow, idle_timeout_s=0.1)
    assert parts(streamed(*slow, idle_timeout_s=30))[2] == "stop"


def test_a_stream_without_end_is_not_read_to_the_end_of_memory(monkeypatch):
    monkeypatch.setattr(client, "LARGEST_ANSWER", 10_000)
    with pytest.raises(RetryableError, match="more than"):
        streamed(*[events(chunk({"content": "x" * 500}))] * 100)


def test_a_connection_that_stays_open_after_the_last_event_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(client, "_END_S", 0.01)
    assert parts(streamed(events(*ANSWER, "[DONE]"), 5.0))[2] == "stop"


def test_tool_calls_by_index_and_by_id():
    call = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": '{"x":'}}
    rest = {"index": 0, "id": "a", "function": {"name": "f", "arguments": " 1}"}}
    second = {"index": 0, "id": "b", "function": {"name": "g", "arguments": "{}"}}
    calls = joined(*({"tool_calls": [piece]} for piece in (call, more, rest, second)))["tool_calls"]
    assert [c["function"] for c in calls] == [
        {"name": "f", "arguments": '{"x": 1}'},
        {"name": "g", "arguments": "{}"},
    ]
    assert [c["id"] for c in calls] == ["a", "b"]


def test_reasoning_in_parts_is_joined_by_kind_and_index():
    details = [
        {"type": "reasoning.text", "text": "a", "index": 0},
        {"type": "reasoning.text", "text": "b", "index": 0, "signature": "s"},
        {"type": "reasoning.text", "text": "c", "index": 1},
    ]
    message = joined(*({"reasoning_details": [detail]} for detail in details))
    assert [detail["text"] for detail in message["reasoning_details"]] == ["ab", "c"]
    thinking = lambda text: {"type": "thinking", "thinking": [{"type": "text", "text": text}]}  # noqa: E731
    message = joined({"content": [thinking("a")]}, {"content": [thinking("b")]}, {"content": "c"})
    assert message["content"] == [thinking("ab"), {"type": "text", "text": "c"}]


def test_logprobs_and_several_choices():
    joiner = ChunkJoiner()
    for index, token in ((0, "a"), (1, "x"), (0, "b")):
        piece = chunk({"content": token}, index=index)
        piece["choices"][0]["logprobs"] = {"content": [{"token": token, "logprob": -1}]}
        joiner.add("", piece)
    joiner.add("", chunk(finish="stop"))
    assert joiner.result() is None  # the second choice has no end
    joiner.add("", chunk(finish="length", index=1))
    first, second = joiner.result()["choices"]
    assert first["message"]["content"] == "ab"
    assert [entry["token"] for entry in first["logprobs"]["content"]] == ["a", "b"]
    assert (second["message"]["content"], second["finish_reason"]) == ("x", "length")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["choices", "delta", "message", "content", "tool_calls", "function", "name",
                         "arguments", "index", "id", "logprobs", "finish_reason", "type", "text"]),
        inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(st.dictionaries(st.sampled_from(["choices", "usage", "id"]), JSON), max_size=4))
def test_no_chunks_break_the_joiner(chunks):
    joiner = ChunkJoiner()
    for values in chunks:
        joiner.add("", values)
    joiner.add("[DONE]", {})
    assert isinstance(joiner.result(), dict)
