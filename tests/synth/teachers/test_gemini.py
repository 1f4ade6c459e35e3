"""The Gemini API on loopback: requests, answers, streams and faults."""

import json

import pytest

from synth.core.errors import UserError
from synth.core.usage import usage_of
from synth.teachers import RequestRejected, RetryableError, gemini
from tests.helpers.dialect_server import CUT, DialectServer, events
from tests.helpers.teachers import QUESTION, ask, build, parts

genai = pytest.importorskip("google.genai", reason="needs the extra gemini")

KEY = "AIzaSyAbcdefghijklmnopqrstu"
USAGE = {
    "promptTokenCount": 10, "cachedContentTokenCount": 4, "candidatesTokenCount": 9,
    "thoughtsTokenCount": 21, "totalTokenCount": 40,
}  # fmt: skip
THOUGHT = {"text": "1 and 1", "thought": True}
TEXT = {"text": "\\boxed{2}", "thoughtSignature": "c2ln"}


def candidate(*own, reason="STOP", **more):
    return {
        "content": {"parts": list(own), "role": "model"},
        "finishReason": reason,
        "index": 0,
        **more,
    }


def response(*candidates, **more):
    return {
        "candidates": list(candidates), "usageMetadata": USAGE, "modelVersion": "gemini-x",
        "responseId": "r1", **more,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


def answered(body, status=200, headers=None, messages=QUESTION, sampling=None, **options):
    with DialectServer(lambda call: (status, headers or {}, body)) as server:
        raw = ask(build("gemini", server.url, **options), messages, **(sampling or {}))
        return raw, server.calls[0]


def test_what_is_sent_is_what_the_sdk_sends():
    chat = [
        {"role": "system", "content": "Be brief."}, *QUESTION,
        {"role": "assistant", "content": "2"}, {"role": "user", "content": "Sure?"},
    ]  # fmt: skip
    with DialectServer(lambda call: (200, {}, response(candidate(TEXT)))) as server:
        ask(build("gemini", server.url, thinking_level="high"), chat, max_tokens=99, stop=["END"],
            temperature=0.5, top_p=0.9, top_k=40, seed=7)  # fmt: skip
        turn = lambda role, text: {"role": role, "parts": [{"text": text}]}  # noqa: E731
        client = genai.Client(api_key=KEY, http_options={"base_url": server.url})
        client.models.generate_content(
            model="m",
            contents=[turn("user", "What is 1 + 1?"), turn("model", "2"), turn("user", "Sure?")],
            config={
                "system_instruction": {"parts": [{"text": "Be brief."}]}, "max_output_tokens": 99,
                "stop_sequences": ["END"], "temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": 7,
                "thinking_config": {"include_thoughts": True, "thinking_level": "HIGH"},
            },
        )  # fmt: skip
        ours, theirs = server.calls
    assert ours.path == theirs.path
    thinking = ours.body["generationConfig"].pop("thinkingConfig")
    said = theirs.body["generationConfig"].pop(
        "thinkingConfig"
    )  # protobuf takes both ways to write
    camel = {"include_thoughts": "includeThoughts", "thinking_level": "thinkingLevel"}
    assert thinking == {camel.get(name, name): value for name, value in said.items()}
    assert ours.body == {**theirs.body, "systemInstruction": {"parts": [{"text": "Be brief."}]}}
    assert ours.headers["x-goog-api-key"] == theirs.headers["x-goog-api-key"] == KEY
    assert KEY not in ours.path + str(ours.query)


def test_a_response_becomes_a_chat_completion_and_stays_beside_it():
    native = response(candidate(THOUGHT, TEXT, safetyRatings=[]))
    raw, _ = answered(native)
    assert parts(raw) == ("1 and 1", "\\boxed{2}", "stop")
    assert raw["native"] == native
    assert (raw["id"], raw["model"]) == ("r1", "gemini-x")
    assert usage_of(raw, None)[:2] == (10, 30)
    assert raw["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    assert raw["usage"]["completion_tokens_details"]["reasoning_tokens"] == 21


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"), ("PROHIBITED_CONTENT", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "error"), ("OTHER", "error"), ("NEW_ONE", "NEW_ONE"),
    ],
)  # fmt: skip
def test_finish_reasons(reason, finish):
    from synth.teachers._gemini.content import completion_of

    raw = completion_of(response(candidate(TEXT, reason=reason)))
    assert raw["choices"][0]["finish_reason"] == finish
    blocked = completion_of(response({"finishReason": reason, "index": 0}))
    assert blocked["choices"][0]["message"]["content"] == ""


def test_a_blocked_prompt_is_refused_for_good():
    with pytest.raises(RequestRejected, match="the prompt was blocked: SAFETY"):
        answered({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": USAGE})


def test_calls_of_functions():
    raw, _ = answered(response(candidate({"functionCall": {"name": "f", "args": {"x": 1}}})))
    (call,) = raw["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"x": 1}'}
    assert parts(raw)[2] == "tool_calls"


@pytest.mark.parametrize(
    ("code", "name", "expected"),
    [
        (400, "INVALID_ARGUMENT", RequestRejected),
        (401, "UNAUTHENTICATED", UserError),
        (429, "RESOURCE_EXHAUSTED", RetryableError),
        (500, "INTERNAL", RetryableError),
        (503, "UNAVAILABLE", RetryableError),
    ],
)
def test_errors(code, name, expected):
    error = {"error": {"code": code, "message": f"why {KEY}", "status": name}}
    with pytest.raises(expected, match="why") as caught:
        answered(error, code)
    assert KEY not in str(caught.value)
    with pytest.raises(expected, match="why"):
        answered([events(error)], stream=True)


@pytest.mark.parametrize(
    "body",
    [
        {}, [1], "{", {"candidates": []}, response(candidate(TEXT, reason=None)), "<html>",
        {"candidates": [1]}, {"error": "x"},
    ],
)  # fmt: skip
def test_what_is_no_response_is_asked_again(body):
    with pytest.raises(RetryableError):
        answered(body)


def pieces_of_a_stream():
    def piece(*own, **more):
        return response({"content": {"parts": list(own), "role": "model"}, "index": 0, **more})

    return [
        piece({"text": "1 and ", "thought": True}),
        piece({"text": "1", "thought": True}, {"text": "\\boxed{"}),
        piece({"text": "2}"}),
        piece({"text": "", "thoughtSignature": "c2ln"}, finishReason="STOP"),
    ]


def test_a_stream_is_joined():
    raw, call = answered([events(*pieces_of_a_stream(), end="\r\n")], stream=True)
    assert parts(raw) == ("1 and 1", "\\boxed{2}", "stop")
    assert raw["native"] == response(candidate(THOUGHT, TEXT))
    assert call.path.endswith("/models/m:streamGenerateContent")
    assert call.query == {"alt": "sse"}
    assert "stream" not in call.body


def test_a_stream_that_is_cut_is_asked_again():
    for kept in range(4):
        with pytest.raises(RetryableError):
            answered([events(*pieces_of_a_stream()[:kept])], stream=True)
    with pytest.raises(RetryableError):
        answered([events(*pieces_of_a_stream()[:2]), CUT], stream=True)


def test_further_parameters_go_where_gemini_has_them():
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    sampling = {"safetySettings": safety, "generationConfig": {"responseMimeType": "text/plain"}}
    _, call = answered(response(candidate(TEXT)), sampling=sampling, include_thoughts=False)
    assert call.body["safetySettings"] == safety
    assert call.body["generationConfig"] == {
        "maxOutputTokens": 50,
        "responseMimeType": "text/plain",
    }
    _, call = answered(response(candidate(TEXT)), thinking_budget=0)
    assert call.body["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 0}


def test_versions_and_models_make_the_address():
    _, call = answered(response(candidate(TEXT)), api_version="v1beta", model="tunedModels/x")
    assert call.path == "/v1beta/tunedModels/x:generateContent"


def test_ways_to_think_are_part_of_the_identity_and_one_at_a_time():
    identities = [
        gemini.GeminiTeacher(gemini.Config(model="m", **options), "k").identity
        for options in (
            {},
            {"include_thoughts": False},
            {"thinking_budget": 9},
            {"thinking_level": "low"},
        )
    ]
    assert len({json.dumps(identity) for identity in identities}) == 4
    with pytest.raises(ValueError, match="two ways"):
        gemini.Config(model="m", thinking_budget=1, thinking_level="low")


def test_parameters_that_the_api_lacks_are_refused():
    with pytest.raises(UserError, match="no sampling parameter top_logprobs"):
        answered(response(candidate(TEXT)), sampling={"top_logprobs": 3, "logprobs": True})
