import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import repetition
from filters.contract import Context
from filters.repetition import repeated_share, tail_cycle
from synth.record import Record, Task

CHECK = repetition.build(repetition.Config(), Context())


def trace(text):
    return Record("r", Task("t", "q"), [], text, text)


LOOPS = {
    "English": "Wait, let me check again. " * 40,
    "Chinese": "等等，让我再检查一遍。" * 30,
    "cut off": ("So the answer is 5, but let me see if it is right. " * 20)[:-20],
    "counting": "".join(
        f"Wait, let me try n = {i}. n = {i} does not work since {i} is not prime. "
        for i in range(1, 200)
    ),
    "no spaces": "x" * 100_000,
    "paragraphs": "\n".join(
        [" ".join(f"w{j}" for j in range(i, i + 40)) for i in (0, 40, 0, 40, 80, 0, 40, 0, 80, 40)]
    ),
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS.keys())
def test_loops_are_dropped_wherever_they_are(make, record, loop):
    check = make("repetition")
    for found in (check(record("5", loop)), check(record(loop)), check(record("5", "Hm. " + loop))):
        assert not found.keep
        assert found.reason.split(":")[0] in {"loop", "repetitive"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "1+1=2",
        "2+2+2+2+2+2+2+2=16",
        "The answer is 4.\nThe answer is 4.\nThe answer is 4.",
        " + ".join(str(i) for i in range(1, 101)) + " = 5050",
        "三加三等于六。三乘三等于九。",
        "\\begin{pmatrix} 0 & 0 & 0 \\\\ 0 & 0 & 0 \\\\ 0 & 0 & 0 \\end{pmatrix}",
    ],
)
def test_short_arithmetic_passes(make, record, text):
    assert make("repetition")(record(text, text)).keep


def test_an_answer_may_restate_the_reasoning(make, record):
    text = " ".join(f"word{i}" for i in range(300))
    assert make("repetition")(record(text, text)).keep


@given(st.lists(st.sampled_from("ab"), max_size=40), st.integers(1, 6))
def test_share_is_the_one_counted_by_hand(tokens, n):
    runs = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    assert repeated_share(tokens, n) == (1 - len(set(runs)) / len(runs) if runs else 0)


@given(st.lists(st.sampled_from("ab"), max_size=30))
def test_cycle_is_the_one_found_by_trying_all(tokens):
    best = 1.0
    for period in range(1, len(tokens)):
        length = period
        while length < len(tokens) and tokens[-1 - length] == tokens[-1 - length + period]:
            length += 1
        if length > period:
            best = max(best, length / period)
    assert tail_cycle(tokens)[1] == best


@given(st.text())
def test_any_text_has_a_decision(text):
    decision = CHECK(trace(text))
    assert 0 <= decision.score <= 1


def test_time_is_linear():
    for text in ("ab " * 300_000, "ab" * 500_000, "".join(f"{i} " for i in range(200_000))):
        start = time.perf_counter()
        CHECK(trace(text))
        assert time.perf_counter() - start < 4


def test_drops_no_real_trace(make, record, rows):
    check = make("repetition")
    traces = [text for row in rows("math-cot-100.jsonl") for text in row["code"]]
    solutions = [row["solution"] for row in rows("math500.jsonl")]
    dropped = [text for text in traces + solutions if not check(record(text)).keep]
    assert len(traces) == 800
    assert dropped == []
