"""Reasoning and text of a message, in every form that APIs and files give them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.core.message_text import read_parts, reasoning_of, reasoning_text
from synth.core.reasoning import parse_completion, split_fields, whole_text

R, A = "Let me add: 1 + 1 = 2.", "The answer is \\boxed{2}."


def raw(**message):
    return {"choices": [{"message": message, "finish_reason": "stop"}]}


TEXT_DETAIL = {"type": "reasoning.text", "text": R, "format": "unknown", "index": 0}
SUMMARY_DETAIL = {"type": "reasoning.summary", "summary": R}
ENCRYPTED_DETAIL = {"type": "reasoning.encrypted", "data": "gAAAAABpXq=="}
BLOCK = {"type": "thinking", "thinking": R, "signature": "EqQBCgIYAh=="}
# What APIs send, by the API that was seen to.
DIALECTS = {
    "deepseek": {"content": A, "reasoning_content": R},
    "vllm, both names": {"content": A, "reasoning": R, "reasoning_content": R},
    "ollama": {"content": A, "thinking": R},
    "openrouter": {"content": A, "reasoning": R, "reasoning_details": [TEXT_DETAIL]},
    "openrouter, details alone": {"content": A, "reasoning": None, "reasoning_details": [TEXT_DETAIL]},
    "openrouter, summary": {"content": A, "reasoning_details": [SUMMARY_DETAIL, ENCRYPTED_DETAIL]},
    "openrouter, summary of the text": {
        "content": A,
        "reasoning_details": [{"type": "reasoning.summary", "summary": "Adds."}, TEXT_DETAIL],
    },
    "openrouter, pieces": {
        "content": A,
        "reasoning_details": [
            {"type": "reasoning.text", "text": R[:7], "index": 0},
            {"type": "reasoning.text", "text": R[7:], "index": 0},
        ],
    },
    "litellm": {"content": A, "reasoning_content": R, "thinking_blocks": [BLOCK]},
    "litellm, blocks alone": {"content": A, "thinking_blocks": [BLOCK]},
    "litellm, redacted": {
        "content": A,
        "thinking_blocks": [{"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3p"}, BLOCK],
    },
    "litellm, nested": {"content": A, "provider_specific_fields": {"thinking_blocks": [BLOCK]}},
    "object": {"content": A, "reasoning": {"content": R}},
    "object with text": {"content": A, "reasoning": {"effort": "high", "text": R}},
    "object with a summary": {
        "content": A,
        "reasoning": {"effort": "high", "summary": [{"type": "summary_text", "text": R}]},
    },
    "list of texts": {"content": A, "reasoning": [R]},
    "parts": {"content": [{"type": "reasoning", "text": R}, {"type": "text", "text": A}]},
    "anthropic": {"content": [BLOCK, {"type": "text", "text": A}]},
    "mistral": {
        "content": [
            {
                "type": "thinking",
                "thinking": [
                    {"type": "text", "text": R[:7]},
                    {"type": "reference", "reference_ids": [1]},
                    {"type": "text", "text": R[7:]},
                ],
                "closed": True,
            },
            {"type": "text", "text": A},
        ]
    },
    "mistral, references": {
        "reasoning_content": R,
        "content": [
            {"type": "text", "text": A[:9]},
            {"type": "reference", "reference_ids": [1, 2]},
            {"type": "text", "text": A[9:]},
        ],
    },
    "responses": {
        "content": [
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": R}]},
            {"type": "output_text", "text": A},
        ]
    },
    "responses, summary": {
        "content": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": R}]},
            {"type": "output_text", "text": A},
        ]
    },
    "gemini": {"content": f"<thought>{R}</thought>{A}", "extra_content": {"google": {"thought": True}}},
    "gemini, parts": {"content": [{"text": R, "thought": True}, {"text": A}]},
    "bedrock": {"content": [{"reasoningContent": {"reasoningText": {"text": R}}}, {"text": A}]},
    "minimax, interleaved": {"content": f"<think>\n{R}\n</think>\n\n{A}"},
    "empty block beside the field": {"content": f"<think>\n\n</think>\n\n{A}", "reasoning": R},
    "mirrored": {"content": f"<think>{R}</think>{A}", "reasoning_content": R},
    "mirrored, other breaks": {"content": f"<think>\n{R.replace(' ', chr(10))}\n</think>{A}", "reasoning": R},
    "mirrored without the opening tag": {"content": f"{R}</think>{A}", "reasoning": R},
    "mirrored, the field cut": {"content": f"<think>{R}</think>{A}", "reasoning": R[:9]},
    "mirrored, the content cut": {"content": f"<think>{R[:9]}</think>{A}", "reasoning": R},
    "closing tag at the head": {"content": f"</think>\n\n{A}", "reasoning": R},
    "all in the field": {"content": None, "reasoning_content": f"<think>{R}</think>{A}"},
    "all in the field, no opening tag": {"content": "", "reasoning": f"{R}</think>{A}"},
    "tags in the field": {"content": A, "reasoning": f"<think>\n{R}\n</think>"},
}  # fmt: skip


@pytest.mark.parametrize("name", DIALECTS)
def test_every_api_gives_reasoning_and_answer(name):
    reasoning, answer, finish = parse_completion(raw(**DIALECTS[name]))
    assert (reasoning.split(), answer, finish) == (R.split(), A, "stop")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": None, "reasoning": R}, (R, "")),  # cut, or a parser that took all
        ({"content": f"<think>{R}", "reasoning": R}, (R, "")),
        ({"content": A, "reasoning_details": [ENCRYPTED_DETAIL]}, (None, A)),
        ({"content": A, "thinking_blocks": [{"type": "redacted_thinking", "data": "x"}]}, (None, A)),
        ({"content": A, "reasoning": {"effort": "high"}}, (None, A)),
        ({"content": None, "refusal": "I can't help with that."}, (None, "I can't help with that.")),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, (None, "No.")),
        ({"content": A, "refusal": None}, (None, A)),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, (None, "")),
        ({"content": [BLOCK, {"type": "text", "text": "a"}, BLOCK, {"type": "text", "text": "b"}]}, (f"{R}\n\n{R}", "ab")),
        # The model thought twice: which of the two is the thinking is not for a parser to say.
        ({"content": f"<think>Hm.</think>{A}", "reasoning": R}, (R, f"<think>Hm.</think>{A}")),
        # Tags that a thought speaks of are part of it.
        ({"content": A, "reasoning": "Is <think> a tag?"}, ("Is <think> a tag?", A)),
        ({"content": A, "reasoning": "A </think> is a tag."}, ("A </think> is a tag.", A)),
    ],
)  # fmt: skip
def test_what_else_messages_hold(message, expected):
    assert parse_completion(raw(**message))[:2] == expected


def test_parts_that_are_no_text_are_named():
    parts = ["a", {"type": "image"}, {"type": "reference"}, {"type": "text", "text": "b"}, 7]
    assert read_parts(parts) == ("ab", "", ["image", "a number"])


def test_what_was_mirrored_is_written_on_from_once():
    assert (
        whole_text(raw(content=f"<think>{R}</think>{A}", reasoning=R)) == f"<think>{R}</think>{A}"
    )
    assert whole_text(raw(content=f"<think>{R}", reasoning=R)) == f"<think>{R}"
    assert whole_text(raw(content=f"</think>{A}", reasoning=R)) == f"<think>\n{R}\n</think>\n\n{A}"
    assert whole_text(raw(content=f"{A} ", reasoning=R)) == f"<think>\n{R}\n</think>\n\n{A} "


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["<think>", "</think>a", "thinking", "text", "reasoning.text"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "text", "thinking", "content", "reasoning", "summary", "reasoning_details",
             "thinking_blocks", "refusal", "index", "thought", "provider_specific_fields", "x"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@given(json_values)
def test_no_message_is_too_odd(value):
    reasoning_text(value)
    if isinstance(value, list):
        read_parts(value)
    if isinstance(value, dict):
        assert isinstance(reasoning_of(value), str)
        reasoning, answer, _ = parse_completion(raw(**value))
        assert isinstance(answer, str)
        assert reasoning is None or isinstance(reasoning, str)
        assert isinstance(whole_text(raw(**value)), str)
    try:
        parse_completion({"choices": value})
    except ValueError as error:
        assert "choices[0].message" in str(error)


def test_deep_values_are_no_trouble():
    deep = json.loads('{"content":' * 200 + '"x"' + "}" * 200)
    assert reasoning_text(deep) == ""
    assert reasoning_text({"content": {"content": "x"}}) == "x"


words = st.text("abcdefg \n.", min_size=1, max_size=12).filter(lambda text: text.strip())


@st.composite
def told_twice_or_once(draw):
    """Gives a message in one of the forms, and the words of its reasoning and answer."""
    pieces = draw(st.lists(words, min_size=1, max_size=4))
    thoughts = [f"r{i}{piece}R{i}" for i, piece in enumerate(pieces)]
    answer = f"q{draw(words)}Q"
    text = "\n\n".join(thoughts)
    kinds = {
        "reasoning.text": lambda t: {"type": "reasoning.text", "text": t},
        "reasoning.summary": lambda t: {"type": "reasoning.summary", "summary": t},
    }
    kind = kinds[draw(st.sampled_from(sorted(kinds)))]
    blocks = [{"type": "thinking", "thinking": t} for t in thoughts]
    fields = {
        "reasoning_content": text,
        "reasoning": draw(st.sampled_from([text, {"content": text}, {"summary": thoughts}])),
        "reasoning_details": [kind(t) for t in thoughts],
        "thinking_blocks": blocks,
        "thinking": text,
    }
    form = draw(st.sampled_from(["fields", "parts", "inline", "mirrored"]))
    names = draw(st.lists(st.sampled_from(sorted(fields)), min_size=1, unique=True))
    told_apart = {name: fields[name] for name in names}
    message = {
        "fields": {"content": answer, **told_apart},
        "parts": {"content": [*blocks, {"type": "text", "text": answer}]},
        "inline": {"content": f"<think>{text}</think>{answer}"},
        "mirrored": {"content": f"<think>{text}</think>{answer}", **told_apart},
    }[form]
    return message, thoughts, answer


@given(told_twice_or_once())
def test_what_goes_in_comes_out_once(drawn):
    message, thoughts, answer = drawn
    reasoning, text, _ = parse_completion(raw(**message))
    assert text == answer
    assert reasoning.split() == "\n\n".join(thoughts).split()


@given(st.text("ab<think>/ \n"), st.text("ab<think>/ \n"))
def test_no_letter_is_lost_or_doubled_but_tags_and_mirrors(reasoning, content):
    thought, answer = split_fields(reasoning, content)
    assert len(thought or "") + len(answer) <= len(reasoning) + len(content)
    for kept in (thought or "", answer):
        assert kept == kept.strip()
