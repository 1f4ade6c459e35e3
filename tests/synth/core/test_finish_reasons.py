"""Which completions are answers: not those that were refused, broken off or empty."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.core.finish_reasons import broke_off, no_answer

REFUSED = [
    "content_filter",
    "content-filter",
    "refusal",
    "sensitive",
    "SAFETY",
    "RECITATION",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "IMAGE_SAFETY",
    "FinishReason.SAFETY",
    "guardrail_intervened",
    "repetition_truncation",
]
BROKEN_OFF = [
    "error",
    "ERROR",
    "insufficient_system_resource",
    "network_error",
    "abort",
    "aborted",
    "cancelled",
    "timeout",
    "MALFORMED_FUNCTION_CALL",
]
ANSWERS = [
    "stop",
    "STOP",
    "length",
    "max_tokens",
    "MAX_TOKENS",
    "model_length",
    "eos",
    "end_turn",
    "stop_sequence",
    "tool_calls",
    "function_call",
    "unknown",
]


def raw(finish="stop", **message):
    return {"choices": [{"message": {"content": "The answer is 2.", **message}, "finish_reason": finish}]}  # fmt: skip


@pytest.mark.parametrize("finish", REFUSED)
def test_a_refusal_is_for_good(finish):
    problem = no_answer(raw(finish))
    assert problem.reason.startswith("finish reason ")
    assert not problem.passes
    assert broke_off(finish)


@pytest.mark.parametrize("finish", BROKEN_OFF)
def test_what_was_broken_off_may_come_yet(finish):
    assert no_answer(raw(finish)).passes
    assert broke_off(finish)


@pytest.mark.parametrize("finish", [*ANSWERS, None, "", 7, "some_new_reason"])
def test_what_is_an_answer(finish):
    assert no_answer(raw(finish)) is None
    assert not broke_off(str(finish))


def test_an_error_in_the_choice_is_no_answer_whatever_its_finish_reason():
    response = raw()
    response["choices"][0]["error"] = {"code": 502, "message": "Provider\ndisconnected"}
    assert no_answer(response) == ("finish reason error: Provider disconnected", True, False)


CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "is_empty"),
    [
        ({"content": None}, True),
        ({"content": ""}, True),
        ({"content": " \n"}, True),
        ({"content": []}, True),
        ({"content": None, "reasoning": None, "tool_calls": []}, True),
        ({"content": "<think>\n\n</think>\n\n"}, True),
        ({"content": "", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, True),
        ({"content": None, "reasoning": "Hm."}, False),
        ({"content": [{"type": "thinking", "thinking": "Hm."}]}, False),
        ({"content": None, "tool_calls": [CALL]}, False),
        ({"content": None, "function_call": CALL["function"]}, False),
        ({"content": "0"}, False),
    ],
)  # fmt: skip
def test_what_is_empty(message, is_empty):
    problem = no_answer(raw(**message))
    assert (problem is not None) == is_empty
    if is_empty:
        assert problem.reason.startswith("empty: ")
        assert problem.passes
    assert no_answer(raw(**message), empty_is_answer=True) is None
    # What was cut off before its first word is an answer that was cut off.
    assert no_answer(raw("length", **message)) is None


@pytest.mark.parametrize("message", [
    {"content": None, "refusal": "I can't help with that."},
    {"content": [{"type": "refusal", "refusal": "I can't help with that."}]},
])  # fmt: skip
def test_a_refusal_in_its_own_field(message):
    assert no_answer(raw(**message)) == ("refused: I can't help with that.", False, False)
    assert no_answer(raw(content="2", refusal="")) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    ["message", "content", "refusal", "finish_reason", "error", "type"]
                ),
                inner,
            )
        ),
    )
)
def test_no_json_is_too_odd(value):
    for response in ({"choices": value}, {"choices": [value]}, {"choices": [{"message": value}]}):
        try:
            no_answer(response)
        except ValueError as error:
            assert "choices[0].message" in str(error)
