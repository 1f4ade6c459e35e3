import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import refusal
from filters.base import Context
from filters.refusal import build
from synth.core.record import Record, Task

CHECK = build(refusal.Config(), Context())


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("I'm sorry, but I can't help with that.", "I can't help"),
        ("I’m sorry, but I can’t assist you.", "I can’t assist"),
        ("I AM UNABLE TO FULFILL THIS REQUEST.", "I AM UNABLE TO FULFILL THIS REQUEST"),
        ("As an AI language model, I have none.", "As an AI language model, I"),
        ("First:\nI must respectfully decline.", "I must respectfully decline"),
        ("抱歉，我无法回答这个问题。", "抱歉，我无法回答这个问题。"),
        ("作为一个人工智能，我没有感情。", "作为一个人工智能"),
        ("Je ne peux pas vous aider.", "Je ne peux pas vous aider"),
        ("Dabei kann ich leider nicht helfen.", "kann ich leider nicht helfen"),
        ("Lo siento, no puedo responder a esa pregunta.", "no puedo responder a esa"),
        ("Я не могу помочь с этим.", "Я не могу помочь"),
        ("その質問にはお答えできません。", "お答えできません"),
    ],
)
def test_a_refusal_is_named_with_its_place(make, record, text, phrase):
    decision = make("refusal")(record(text, "The user asks me something."))
    assert decision.keep is False
    assert decision.reason == "refusal: refusals 1, over 0"
    found = decision.evidence["refusals"][0]
    assert found["phrase"] == phrase
    assert text[found["start"] : found["end"]] == phrase


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I can't divide by zero, so we cannot conclude.",
        "I'm sorry, I made a mistake: it is 12.",
        "I cannot help but notice a pattern.",
        "I can't answer this question yet.",
        "I cannot write this as a fraction, nor provide any counterexample.",
        'Tom said: "Sorry, but I can\'t help you", and left.',
        "The robot prints `I can't help you` twice.",
        "As an AI startup grows, it hires 3 people.",
        "我们无法得出结论。对不起，我算错了。",
        "Ich kann den Term nicht weiter vereinfachen.",
        "Je ne peux pas encore conclure.",
        "İ I cannot simplify this any more.",
    ],
)
def test_mathematics_and_apologies_are_none(make, record, text):
    assert make("refusal")(record(text)).keep is True


def test_a_refusal_in_the_reasoning_alone_decides_nothing(make, record):
    assert make("refusal")(record("12", "I can't help with that. But it is a test.")).keep is True


def test_words_of_the_question_do_not_count(make, record):
    question = "Which is politer: 'I cannot help you' or 'no'?"
    assert make("refusal")(record("I cannot help you is.", question=question)).keep is True


def test_talk_of_instructions_is_counted_and_may_be_bounded(make, record):
    trace = record("12", "The user asks for 3 + 9. The system prompt says to be short.")
    values = CHECK(trace).values
    assert values == {"refusals": 0, "meta": 2}
    assert make("refusal")(trace).keep is True
    bounded = make("refusal", meta_max=1)(trace)
    assert bounded.reason == "talk of instructions: meta 2, over 1"
    assert bounded.evidence["meta"][0]["phrase"] == "The user ask"
    assert CHECK(record("12", "用户想知道答案。")).values["meta"] == 1


def test_no_real_answer_is_a_refusal(record, rows):
    texts = [text for row in rows("math-cot-100.jsonl") for text in row["code"]]
    texts += [row["solution"] for row in rows("math500.jsonl")]
    texts += [row["answer"] for row in rows("gsm8k-test.jsonl")]
    texts += [row["question"] for row in rows("cmath-test.jsonl")]
    assert [text for text in texts if CHECK(record(text)).values["refusals"]] == []


@given(st.text(), st.text())
def test_any_text_has_figures(question, text):
    values = CHECK(Record("r", Task("t", question), [], text, text)).values
    assert values["refusals"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    ["I ", "i cannot ", "i cannot really ", "sorry, but i can't ", "as an ai ", "i can't provide a ",
     "ich kann ein ", "我无法", "抱歉，我无法", '"', "\x00", "\ud800", "i can't help ", "お答え", "İ"],
)  # fmt: skip
def test_time_is_linear(piece):
    text = piece * (400_000 // len(piece))
    start = time.process_time()
    CHECK(Record("r", Task("t", "q"), [], text, text))
    assert time.process_time() - start < 6


def test_a_long_question_costs_no_more_than_its_length():
    start = time.process_time()
    trace = Record("r", Task("t", "word " * 200_000), [], "", "I can't help you. " * 20_000)
    assert CHECK(trace).values["refusals"] == 20_000
    assert time.process_time() - start < 8
