import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.contradiction import Config, stated


@pytest.mark.parametrize(
    ("reasoning", "answer", "kind"),
    [
        (r"So \boxed{12}.", r"It is $\boxed{12}$.", ""),
        (r"So \boxed{12}.", r"It is $\boxed{13}$.", "contradiction"),
        (r"So \boxed{\frac{1}{2}}.", r"\boxed{0.5}", ""),
        (r"First \boxed{3}. No: \boxed{4}.", r"\boxed{4}", ""),
        ("Thus the answer is 12.", r"\boxed{12}", ""),
        ("Thus the answer is $12$.", r"\boxed{13}", "contradiction"),
        ("The final answer is **1,234**", r"\boxed{1234}", ""),
        ("所以答案是 12。", "答案：13", "contradiction"),
        ("所以答案是 12。", "答案：12", ""),
        ("The answer is (B).", "The correct answer is B.", ""),
        ("The answer is (B).", r"\boxed{C}", "contradiction"),
        ("The answer is 72.", "48 + 24 = 72\n#### 72", ""),
        ("The answer is 71.", "48 + 24 = 72\n#### 72", "contradiction"),
        (r"\boxed{12}. Wait, 5 + 8 = 13.", r"\boxed{13}", "cannot tell"),
        (r"\boxed{12}. Wait, is it? Yes.", r"\boxed{12}", ""),
        ("12 or so", r"\boxed{12}", "cannot tell"),
        (r"\boxed{12}", "Twelve.", "cannot tell"),
        (r"\boxed{a red ball}", r"\boxed{some blue cube}", "cannot tell"),
        ("The answer is whatever we find.", r"\boxed{12}", "cannot tell"),
        (None, r"\boxed{12}", ""),
        (" ", "", ""),
    ],
)
def test_the_two_answers(make, record, reasoning, answer, kind):
    decision = make("contradiction")(record(answer, reasoning))
    assert decision.reason.split(":")[0] == kind
    assert decision.keep is {"": True, "contradiction": False, "cannot tell": None}[kind]


def test_the_evidence_holds_both(make, record):
    decision = make("contradiction")(record(r"\boxed{13}", "The answer is 12."))
    assert decision.reason == "contradiction: 12, then 13"
    assert decision.evidence == {"reasoning": "12", "answer": "13"}


def test_what_it_cannot_tell_is_kept_unless_said():
    assert Config().cannot_tell == "tag"
    assert Config(cannot_tell="drop").cannot_tell == "drop"


@given(st.text(alphabet="\\boxed{}answer is:=1,/.$(B)*答案是\n #\0\ud800"))
def test_any_text_can_be_read(text):
    stated(text)


PIECES = [
    "the answer is ",
    "answer is $",
    "answer is 1,",
    "答案是",
    "\\boxed{",
    " ",
    "answer:  *",
    "1",
]


@pytest.mark.slow
@pytest.mark.parametrize("piece", PIECES)
def test_time_is_bounded(make, record, piece):
    text = piece * (1_000_000 // len(piece))
    check = make("contradiction")
    start = time.perf_counter()
    stated(text)
    check(record(text, text))
    assert time.perf_counter() - start < 10


def test_real_answers_to_one_question(make, record, rows):
    """Two traces of a question stand for reasoning and answer: right ones agree, others do not."""
    check = make("contradiction")
    verdicts = {True: [], False: []}
    for row in rows("math-cot-100.jsonl"):
        for one, other in ((0, 1), (2, 3), (4, 6)):
            right = row["score"][one], row["score"][other]
            if any(right):
                decision = check(record(row["code"][other], row["code"][one]))
                verdicts[all(right)].append(decision.keep)
    assert False not in verdicts[True] and verdicts[True].count(None) < 10
    assert set(verdicts[False]) == {False} and len(verdicts[False]) > 10
