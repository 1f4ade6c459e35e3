import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import decontaminate as module
from filters._decontamination.index import FLOOR
from filters.base import Context
from synth.core.record import Record, Task

APPLES = "Tom has 1,234 apples, gives half of them to Ann and eats three. How many are left?"
TRAIN = "A train leaves Oslo at 9 o'clock and goes 80 miles an hour. When is it 240 miles away?"
CHATTER = "Let me think about this step by step. First I add what is given, then I check it. " * 20


@pytest.fixture
def run(make, record):
    def run(answer, reasoning=None, **options):
        context = Context(eval_tasks=[Task("e0", TRAIN), Task("e1", APPLES)])
        return make("decontaminate", context, **options)(record(answer, reasoning))

    return run


def test_a_question_within_a_trace(run):
    found = run("It is 12.", f"{CHATTER} I know one like it: {APPLES.lower()} {CHATTER}")
    assert not found.keep
    assert found.reason == "repeats evaluation: overlap 1, over 0.7"
    assert (found.evidence["item"], found.evidence["in"]) == ("e1", "reasoning")
    assert run(f"{CHATTER} {APPLES}").evidence["in"] == "answer"
    assert run(CHATTER, CHATTER).keep and run("").keep


def test_the_greater_of_the_two_is_named(run):
    found = run(TRAIN, APPLES[:70])
    assert found.score == pytest.approx(1)
    assert (found.evidence["item"], found.evidence["in"]) == ("e0", "answer")


def test_what_is_strewn_over_a_trace_does_not_add_up(run):
    words = APPLES.split()
    parts = [" ".join(words[i : i + 4]) for i in range(0, len(words), 4)]
    assert not run("", " ".join(parts)).keep
    assert run("", CHATTER.join(parts)).keep


def test_the_question_is_not_looked_at(make, record):
    check = make("decontaminate", Context(eval_tasks=[Task("e", APPLES)]))
    assert check(record("12", "easy", question=APPLES)).keep


def test_short_evaluation_questions_are_named_and_not_looked_for(record):
    tasks = [Task("a", "What is 17 times 23?"), Task("b", APPLES)]
    check = module.build(module.Config(), Context(eval_tasks=tasks))
    assert check(record("", "So what is 17 times 23? It is 391.")).values == {"overlap": 0.0}
    assert check.notes[1:] == [
        "not looked for in traces, as they have fewer than 8 words: this run a"
    ]


@given(st.text(), st.text() | st.none(), st.integers(0, 300))
@settings(max_examples=100)
def test_any_trace(answer, reasoning, place):
    check = module.build(module.Config(), Context(eval_tasks=[Task("e", APPLES)]))
    figures = check(Record("r", Task("t", "q"), [], reasoning, answer))
    assert figures.values["overlap"] == 0 or FLOOR <= figures.values["overlap"] <= 1
    planted = f"{CHATTER[:place]} {APPLES} {answer}"
    figures = check(Record("r", Task("t", "q"), [], reasoning, planted))
    assert figures.values["overlap"] == pytest.approx(1)
    json.dumps(dict(figures.evidence))


@pytest.mark.parametrize("text", [APPLES[:70] * 15_000, CHATTER * 700, "\ud800 x " * 300_000])
def test_a_trace_of_a_megabyte(text):
    tasks = [Task(f"e{i}", f"{APPLES} {i} {CHATTER[i : i + 50]}") for i in range(200)]
    check = module.build(module.Config(), Context(eval_tasks=tasks))
    start = time.process_time()
    check(Record("r", Task("t", "q"), [], text, ""))
    assert time.process_time() - start < 20


def test_real_traces(rows):
    tasks = [Task(str(i), r["question"]) for i, r in enumerate(rows("gsm8k-test.jsonl"))]
    check = module.build(module.Config(), Context(eval_tasks=tasks))
    traces = [text for row in rows("math-cot-100.jsonl")[:40] for text in row["code"]]
    alarms = [
        t for t in traces if check(Record("r", Task("t", ""), [], t, "")).values["overlap"] > 0.7
    ]
    assert not alarms
    for i, task in enumerate(tasks[:200]):
        planted = f"{traces[i]}\n\n{task.question}\n\n{traces[i]}"
        assert check(Record("r", Task("t", ""), [], planted, "")).values["overlap"] > 0.7
