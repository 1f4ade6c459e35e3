import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.truncated import open_ends
from synth.core.record import Record, Task

PROSE = "We add the two numbers. "


@pytest.mark.parametrize(
    ("finish", "unknown", "kind"),
    [
        ("stop", False, ""),
        ("length", False, "truncated"),
        ("MAX_TOKENS", False, "truncated"),
        ("unknown", False, ""),
        ("unknown", True, "finish reason unknown"),
        (None, False, ""),
        (None, True, "finish reason unknown"),
        ("tool_calls", True, ""),
    ],
)
def test_finish_reasons(make, record, finish, unknown, kind):
    decision = make("truncated", unknown=unknown)(record("a", finish=finish))
    assert decision.reason.split(":")[0] == kind
    assert decision.keep == (not kind)


@pytest.mark.parametrize(
    ("by_text", "finish", "keeps"),
    [
        ("unknown", None, False),
        ("unknown", "unknown", False),
        ("unknown", "stop", True),
        ("always", "stop", False),
        ("never", None, True),
    ],
)
def test_when_the_text_is_judged(make, record, by_text, finish, keeps):
    decision = make("truncated", by_text=by_text)(record("so \\[ x = ", finish=finish))
    assert decision.keep == keeps
    if not keeps:
        assert decision.reason == "ends in the middle: display"
        assert decision.evidence == {"open": ["display"], "end": "so \\[ x ="}


@pytest.mark.parametrize(
    ("reasoning", "answer", "signs"),
    [
        ("a", " ", ["no answer"]),
        (None, "", []),
        ("a", "x <think> y", ["think block"]),
        ("a", "<think> x </think> y", []),
        (None, "```python\nx = (1,\n", ["code fence"]),
        (None, "```python\nx = {1: '$'\n```", []),
        (None, "\\begin{align} x", ["environment"]),
        (None, "\\begin{align} x \\\\[2pt] y \\end{align}", []),
        (None, "\\(x\\) and \\(y", ["display"]),
        (None, "\\frac{1}{2", ["brace"]),
        (None, "\\{1, 2\\}", []),
        (None, "so $x = 5$ and $y", ["dollar"]),
        (None, "It costs $5.", []),
        (None, PROSE + "This gives us the", ["sentence"]),
        (None, PROSE + "This gives us the sum,", ["sentence"]),
        (None, PROSE + "这样我们就得到了", ["sentence"]),
        (None, PROSE + "This gives us 12", []),
        (None, PROSE + "This gives us the sum!", []),
        (None, PROSE + "\n\nParis", []),
        (None, "no sentence has ended here yet", []),
    ],
)
def test_what_is_left_open(record, reasoning, answer, signs):
    assert open_ends(record(answer, reasoning)) == signs


@given(st.text(alphabet="\\${}[]()`\n .a1<think>\ud800\0"))
def test_any_text_has_its_ends(text):
    open_ends(Record("r", Task("t", "q"), [], text, text))


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["\\", "$", "{", "```\n", " ", "\n", "\\begin{", "<think>", "a."])
def test_time_is_linear(record, piece):
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    open_ends(record(text))
    assert time.process_time() - start < 3


def test_real_traces_that_are_cut_are_found_and_no_others(record, rows):
    rng = random.Random(0)
    traces = {
        f"{row['idx']}-{number}": text
        for row in rows("math-cot-100.jsonl")
        for number, text in enumerate(row["code"])
    }
    found = {name for name, text in traces.items() if open_ends(record(text))}
    assert found == {"25-1", "45-5", "48-3"}  # they turn into noise that the limit on tokens ended
    cut = [text[: rng.randint(len(text) // 2, len(text) - 20)] for text in traces.values()]
    assert sum(bool(open_ends(record(text))) for text in cut) / len(cut) > 0.7
