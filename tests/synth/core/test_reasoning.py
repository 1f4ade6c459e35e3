"""One normaliser for all dialects of reasoning."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.core.reasoning import (
    DIALECTS,
    join_trace,
    marks,
    parse_completion,
    split_trace,
    whole_text,
)


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


every_dialect = pytest.mark.parametrize("tags", DIALECTS, ids=[tags.open for tags in DIALECTS])


@every_dialect
def test_every_dialect_is_read(tags):
    assert split_trace(f"{tags.open}\na\n{tags.close}\n\nb") == ("a", "b")
    assert split_trace(f"a{tags.close}b") == ("a", "b")
    assert split_trace(f"{tags.open}cut off") == ("cut off", "")
    assert split_trace(f"Well: {tags.open}a{tags.close}b") == (f"Well: {tags.open}a", "b")


@every_dialect
def test_marks_at_the_ends_are_no_text(tags):
    for mark in tags.around:
        assert split_trace(f"{mark}{tags.open}a {mark}{tags.close}{mark}\nb{mark} ") == ("a", "b")


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant"
            "<|channel|>final<|message|>b<|return|>",
            "a",
            "b",
        ),
        (
            "<|begin_of_thought|>\n\na\n\n<|end_of_thought|>\n\n"
            "<|begin_of_solution|>\n\nb\n\n<|end_of_solution|>",
            "a",
            "b",
        ),
        ("<|channel>thought\na<channel|>b<turn|>", "a", "b"),
        # The dialect is the one that the text begins with.
        ("<think>I could write </thought></think>b", "I could write </thought>", "b"),
        ("Not <reasoning>, but a</think>b", "Not <reasoning>, but a", "b"),
        # What the prompts for rewriting ask for.
        (
            "<reasoning>a</reasoning>\n<answer>b</answer>",
            None,
            "<reasoning>a</reasoning>\n<answer>b</answer>",
        ),
        (
            "<think>c</think><reasoning>a</reasoning><answer>b</answer>",
            "c",
            "<reasoning>a</reasoning><answer>b</answer>",
        ),
    ],
)
def test_whole_responses(text, reasoning, answer):
    assert split_trace(text) == (reasoning, answer)


def test_marks_are_found_in_their_order():
    found = marks("<think>a</think>b<|end|>")
    assert [(mark.text, mark.at, mark.kind) for mark in found] == [
        ("<think>", 0, "open"),
        ("</think>", 8, "close"),
        ("<|end|>", 17, "around"),
    ]


PIECES = ["<", "a<reasoning>", "</reasoning> ", "<|end|> ", "<|start|>assistant", " \n", "[THINK]"]


@pytest.mark.slow
@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("head", ["", "</reasoning>", "<|channel|>final<|message|>"])
def test_time_is_linear(head, piece):
    text = head + piece * (1_000_000 // len(piece)) + "x" + piece * 1000
    start = time.perf_counter()
    split_trace(text)
    marks(text)
    assert time.perf_counter() - start < 5


plain = st.text().map(str.strip).filter(lambda t: not marks(t))


@given(plain, plain)
def test_what_is_joined_is_split_again(reasoning, answer):
    assert split_trace(join_trace(reasoning, answer)) == (reasoning, answer)


@given(st.text(alphabet="<>/|[]think THINK ab\n\0\ud800"))
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
        (
            raw(content=[{"type": "thinking", "thinking": "r"}, {"type": "text", "text": "c"}]),
            ("r", "c", "stop"),
        ),
        (
            raw(content=[{"thinking": [{"text": "r"}, {"text": "s"}]}, {"text": "c"}, None, 7]),
            ("rs", "c", "stop"),
        ),
        (raw(reasoning="r", content="[/THINK]\n\nc"), ("r", "c", "stop")),
        (raw(reasoning={"no": "text"}), (None, "c", "stop")),
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


def test_content_parts_are_written_on_from():
    parts = [{"type": "thinking", "thinking": "r"}, {"type": "text", "text": "c"}]
    assert whole_text(raw(content=parts)) == "<think>\nr\n</think>\n\nc"
