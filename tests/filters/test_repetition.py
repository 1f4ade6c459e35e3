import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import repetition
from filters.base import Context
from filters.repetition import cycle_anywhere, numbered, repeated_ends, repeated_share, tail_cycle
from synth.core.record import Record, Task

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
    "counting, cut off": "Now n = 1. "
    + "".join(f"Try n = {i}: the sum is {i * i + 7}, no square. " for i in range(2, 30))[:-20],
    "in other words": " ".join(
        f"{begin} {make} 3x + 7 = 40, {so} 3x = 33 and x = 11, since 3(11) + 7 = 40. {end}"
        for begin in ("Wait, let me check:", "Hmm, once more.", "Let me see again:", "So")
        for make in ("we have", "the equation says", "it was given that")
        for so, end in (("so", "Thus 11."), ("which gives", "I get 11 again."))
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
        assert found.reason.split(":")[0] in {"loop", "circling", "repetitive"}


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
        "The numbers are " + ", ".join(str(i) for i in range(1, 101)),
        "\n".join(f"$7 \\times {i} = {7 * i}$" for i in range(1, 40)),
        "\\begin{pmatrix} " + " \\\\ ".join([" & ".join("00000")] * 6) + " \\end{pmatrix} = 0.",
        " \\times ".join(["\\frac{1}{2}"] * 9) + " = \\frac{1}{512}.",
        " \\times ".join(["0.5"] * 12) + " = 0.000244.",
        "| n | n |\n" + "|" + "---|" * 20 + "\n" + "-" * 80 + "\nend.",
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
    expected = 1 - len(set(runs)) / len(runs) if runs else 0
    assert repeated_share(numbered(tokens), n) == pytest.approx(expected)


def test_a_long_end_that_stood_before_is_a_loop(make, record):
    text = (
        " ".join(f"word{i}x" for i in range(700)) + " " + " ".join(f"word{i}x" for i in range(300))
    )
    decision = make("repetition")(record(text))
    assert decision.reason == "loop: suffix 0.299, over 0.25"
    assert make("repetition", suffix_max=None)(record(text)).keep


def test_the_evidence_is_the_cycle_with_its_place(make, record):
    decision = make("repetition")(record("5", "Wait, let me check again. " * 40))
    assert decision.evidence == {"reasoning": {"cycle": "Wait , let me check again .", "words": 7}}
    assert decision.score == 40


def test_the_evidence_is_the_phrase_said_most(make, record):
    evidence = make("repetition")(record(LOOPS["in other words"])).evidence["answer"]
    assert evidence["times"] == 24
    assert evidence["phrase"] in "3x = 33 and x = 11 , since 3 ( 11 ) + 7 = 40 ."


def test_figures_have_no_meaning_in_short_texts(record):
    figures = CHECK(record("x = 2"))
    assert figures.values == {
        "cycles": 1, "suffix": None, "circling": None, "share": None, "compression": None
    }  # fmt: skip
    assert not figures.evidence


@given(st.lists(st.sampled_from("ab"), max_size=30))
def test_cycle_is_the_one_found_by_trying_all(tokens):
    best = 1.0
    for period in range(1, len(tokens)):
        length = period
        while length < len(tokens) and tokens[-1 - length] == tokens[-1 - length + period]:
            length += 1
        if length > period:
            best = max(best, length / period)
    assert tail_cycle(tokens, repeated_ends(tokens)).times == best


@given(st.text("ab", max_size=30), st.integers(1, 4))
def test_ends_are_those_found_by_trying_all(text, times):
    text *= times
    found = {}
    for distance in range(1, len(text)):
        before, same = text[:-distance], 0
        while same < len(before) and before[-1 - same] == text[-1 - same]:
            same += 1
        if same:
            found[distance] = same
    assert repeated_ends(text) == found


@given(st.lists(st.sampled_from("a="), max_size=40), st.integers(16, 30))
def test_a_cycle_anywhere_is_one(tokens, least):
    words, times, start = cycle_anywhere(tokens, numbered(tokens), least)
    end = start + round(words * times)
    assert times == 1 or end - start >= least
    assert all(tokens[i] == tokens[i + words] for i in range(start, end - words))


@given(st.integers(1, 30), st.integers(3, 8))
def test_a_cycle_that_was_planted_is_found(length, times):
    cycle = ["is", "=", *(f"{number}" for number in range(length))]
    tokens = [*"x1y2z", *cycle * times, *"3v4w"]
    found = cycle_anywhere(tokens, numbered(tokens), 8)
    if len(cycle) * (times - 1) >= 16:
        assert (found.words, found.times) == (len(cycle), times)


@given(st.text())
def test_any_text_has_its_figures(text):
    values = CHECK(trace(text)).values
    assert values["cycles"] >= 1
    shares = (values[name] for name in ("suffix", "circling", "share"))
    assert all(share is None or 0 <= share <= 1 for share in shares)


@pytest.mark.slow
def test_time_is_linear():
    for text in (
        "ab " * 100_000,
        "ab" * 500_000,
        "".join(f"{i} " for i in range(100_000)),
        "= a" * 100_000,
    ):
        start = time.process_time()
        CHECK(trace(text))
        assert time.process_time() - start < 4


def test_of_real_traces_those_that_loop_are_dropped(make, record, rows):
    check = make("repetition")
    traces = {
        f"{row['idx']}-{number}": text
        for row in rows("math-cot-100.jsonl")
        for number, text in enumerate(row["code"])
    }
    assert len(traces) == 800
    # They say `= 9 * 5/3 = 9 * 5/3 = ...` four to six times over.
    looping = {"26-0", "26-1", "26-3", "26-4", "26-5", "79-0", "79-2", "79-3", "79-5"}
    assert {name for name, text in traces.items() if not check(record(text)).keep} == looping
    kept = {name: text for name, text in traces.items() if name not in looping}
    kept |= {str(number): row["solution"] for number, row in enumerate(rows("math500.jsonl"))}
    assert all(check(record(text)).keep for text in kept.values())
    # What the bounds were set above.
    go_round = {"28-6", "54-7", "72-2"}  # but not more than sound texts do, or hardly
    values = [CHECK(record(text)).values for name, text in kept.items() if name not in go_round]
    for name, largest in (("cycles", 2.42), ("suffix", 0.08), ("circling", 0.815), ("share", 0.32)):
        assert max(v[name] or 0 for v in values) == pytest.approx(largest, abs=0.006)
    assert min(v["compression"] or 1 for v in values) == pytest.approx(0.207, abs=0.0006)
