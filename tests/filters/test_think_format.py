import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import think_format
from filters.base import Context
from synth.core.reasoning import DIALECTS
from synth.core.record import Record, Task

CHECK = think_format.build(think_format.Config(), Context())


@pytest.mark.parametrize(
    ("reasoning", "answer", "options", "reason"),
    [
        ("1+1=2", "2", {}, ""),
        (None, "2", {}, "no reasoning"),
        (" \n", "2", {}, "no reasoning"),
        (None, "<think>b</think>2", {}, "unread think block: <think> in the answer"),
        (None, "2", {"require_reasoning": False}, ""),
        ("a <think> b", "2", {}, "nested think tag: <think> in the reasoning"),
        ("a <think> b </think>", "2", {}, "nested think tag: <think> in the reasoning"),
        ("a [/THINK] b", "2", {}, "stray think tag: [/THINK] in the reasoning"),
        ("a", "b</think>2", {}, "stray think tag: </think> in the answer"),
        ("a", "<think>b</think>2", {}, "second think block: <think> in the answer"),
        ("a", "</think><think>2", {}, "unclosed think tag: </think> in the answer"),
        ("a", "<|channel|>analysis<|message|>2", {}, "unclosed think tag: <|channel|>analysis<|message|> in the answer"),
        ("a", "2<|end|>", {}, "stray think tag: <|end|> in the answer"),
        ("a", " ", {}, "no answer"),
        ("a", "", {"final_answer": "none"}, ""),
        ("a", "2", {"final_answer": "boxed"}, "no boxed answer"),
        ("a", "", {"final_answer": "boxed"}, "no answer"),
        (r"\boxed{2}", "2", {"final_answer": "boxed"}, "no boxed answer"),
        ("a", r"\boxed{\frac{1}{2}}", {"final_answer": "boxed"}, ""),
        ("a", r"\boxed{ }", {"final_answer": "boxed"}, "empty box"),
        ("a", r"\boxed{\frac{1}{2}", {"final_answer": "boxed"}, "no boxed answer"),
    ],
)  # fmt: skip
def test_format(make, record, reasoning, answer, options, reason):
    decision = make("think_format", **options)(record(answer, reasoning))
    assert decision.reason == reason
    assert decision.keep == (not reason)


@pytest.mark.parametrize("dialect", DIALECTS, ids=[dialect.open for dialect in DIALECTS])
def test_tags_of_every_dialect_are_found(record, dialect):
    for tag in (dialect.open, dialect.close, *dialect.around):
        assert not CHECK(record(f"a {tag} b", "fine")).keep
        assert not CHECK(record("fine", f"a {tag} b")).keep


def test_the_evidence_says_which_tag_and_where(record):
    evidence = CHECK(record("x" * 100 + "</think>" + "y" * 100, "a")).evidence
    shown = {"tag": "</think>", "at": 100, "text": "x" * 40 + "</think>" + "y" * 40}
    assert evidence == {"place": "answer", "tags": [shown]}


@given(st.text(alphabet="<>/|think[]THINK ab\n\0\ud800"))
def test_any_text_has_a_decision(text):
    CHECK(Record("r", Task("t", "q"), [], text, text))


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["<", "<think>", "</think", "◁", "<|", "\\boxed{", " "])
def test_time_is_linear(record, piece):
    text = piece * (1_000_000 // len(piece))
    check = think_format.build(think_format.Config(final_answer="boxed"), Context())
    start = time.process_time()
    check(record(text, text))
    assert time.process_time() - start < 5


def test_no_real_trace_is_malformed(make, record, rows):
    check = make("think_format", require_reasoning=False, final_answer="boxed")
    traces = [text for row in rows("math-cot-100.jsonl") for text in row["code"]]
    assert all(check(record(text)).keep for text in traces)
