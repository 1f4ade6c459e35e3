import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import boilerplate
from filters.base import Context
from synth.core.record import Record, Task

CHECK = boilerplate.build(boilerplate.Config(), Context())


@pytest.mark.parametrize(
    "answer",
    [
        "Sure! The answer is 5.",
        "Certainly, let's solve it. x = 5.",
        "**Great question!** x = 5.",
        "Here is the detailed, step-by-step solution:\n x = 5.",
        "I'd be happy to help. x = 5.",
        "x = 5. I hope this helps!",
        "x = 5. I hope this explanation makes things clear.",
        "x = 5.\n\nLet me know if you have any questions.",
        "x = 5. If you have any further questions, feel free to ask!",
        "x = 5. Please don’t hesitate to ask.",
        "当然可以！x = 5。",
        "好的，我们来解这道题。x = 5。",
        "x = 5。希望这个解答对你有帮助！",
        "x = 5。如果您还有其他问题，请随时告诉我。",
    ],
)
def test_boilerplate_is_dropped(make, record, answer):
    decision = make("boilerplate")(record(answer, "fine"))
    assert decision.reason.startswith("boilerplate: sentences ")
    assert decision.evidence["sentences"]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "x = 5.",
        "Here are the steps: first, add. Is there a solution? Sure, there are two.",
        "We need the answer, and let us know the sign of x. The answer is 5.",
        "If you have 3 apples and take 2, you have 1. A good question is why.",
        "Anna hopes to help 3 friends. Of course 3 is odd.",
        "x 有三个解。如果有三个苹果，问题就简单了。",
    ],
)
def test_mathematics_passes(make, record, answer):
    assert make("boilerplate")(record(answer, "Sure! Let me know if I am wrong.")).keep


def test_the_share_is_of_words(make, record):
    answer = "We add the two and get five. I hope this helps!"
    figures = CHECK(record(answer))
    assert figures.values == {"sentences": 1, "share": 4 / 11}
    assert figures.evidence == {"sentences": ["I hope this helps!"]}
    assert make("boilerplate", sentences_max=None, share_max=0.4)(record(answer)).keep
    assert not make("boilerplate", sentences_max=None, share_max=0.3)(record(answer)).keep


@given(st.text(alphabet="hope this helps如果有.!\n'’\0\ud800"))
def test_any_text_has_its_figures(text):
    assert 0 <= CHECK(Record("r", Task("t", "q"), [], None, text)).values["share"] <= 1


PIECES = [
    "hope this ",
    "if you have ",
    "如果有",
    "希望",
    ".",
    "\n",
    " ",
    "a",
    "here is the a ",
    "如有 ",
]


@pytest.mark.slow
@pytest.mark.parametrize("piece", PIECES)
def test_time_is_linear(record, piece):
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    CHECK(record(text))
    assert time.process_time() - start < 5


def test_no_real_trace_holds_any(record, rows):
    texts = [text for row in rows("math-cot-100.jsonl") for text in row["code"]]
    texts += [row["solution"] for row in rows("math500.jsonl")]
    texts += [row["answer"] for row in rows("gsm8k-train.jsonl")[:2000]]
    found = [CHECK(record(text)).evidence for text in texts]
    assert [one for one in found if one] == [], json.dumps(found[:5])
