"""One normaliser for all dialects of reasoning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.reasoning import join_trace, parse_completion, split_trace


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>a</think>b", "a", "b"),
        ("\n<think>\na\n</think>\n\nb\n", "a", "b"),
        ("a</think>b", "a", "b"),  # R1-Distill: the template opened the tag
        ("b", None, "b"),
        ("<think>cut off", "cut off", ""),
        ("<think></think>b", "", "b"),
        ("", None, ""),
        ("<think>a</think>b</think>c", "a", "b</think>c"),
        ("Well: <think>a", "Well:\na", ""),
        ("Well <think>a</think>b", "Well <think>a", "b"),
    ],
)
def test_dialects_of_inline_text(text, reasoning, answer):
    assert split_trace(text) == (reasoning, answer)


plain = st.text().map(str.strip).filter(lambda t: "think>" not in t)


@given(plain, plain)
def test_what_is_joined_is_split_again(reasoning, answer):
    assert split_trace(join_trace(reasoning, answer)) == (reasoning, answer)


@given(st.text(alphabet="<>/think ab\n"))
def test_any_text_gives_a_trace(text):
    reasoning, answer = split_trace(text)
    assert answer == answer.strip()
    assert reasoning is None or reasoning == reasoning.strip()


def raw(**message):
    return {"choices": [{"message": {"content": "c", **message}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (raw(), (None, "c", "stop")),
        (raw(reasoning="r"), ("r", "c", "stop")),
        (raw(reasoning_content="r"), ("r", "c", "stop")),
        (raw(reasoning_content="", content="<think>r</think>c"), ("r", "c", "stop")),
        (raw(reasoning="r", content="</think>\n\nc"), ("r", "c", "stop")),
        (raw(content=None), (None, "", "stop")),
        (raw(reasoning="r", content=None), ("r", "", "stop")),
        (raw(content=[{"type": "text", "text": "<think>r</think>c"}]), ("r", "c", "stop")),
        ({"choices": [{"message": {"content": "c"}}]}, (None, "c", "unknown")),
    ],
)
def test_dialects_of_responses(response, expected):
    assert parse_completion(response) == expected


@pytest.mark.parametrize(
    "response",
    [{}, {"choices": []}, {"choices": None}, {"choices": [{}]}, {"choices": [{"message": None}]}],
)
def test_what_is_no_completion(response):
    with pytest.raises(ValueError, match="no choices"):
        parse_completion(response)
