import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.base import Context
from filters.choice import Config, build, options_of

CAPITALS = {"choices": ["Paris", "Rome", "Madrid", "Oslo"]}
NUMBERS = {"options": {"A": "12", "B": "15", "C": "20"}}


@pytest.fixture
def verdict(record):
    def judge(answer, expected, metadata=CAPITALS, **options):
        trace = record(answer, reference=expected)
        trace.task.metadata = metadata
        return build(Config(**options), Context())(trace)

    return judge


@pytest.mark.parametrize(
    ("answer", "reference", "metadata"),
    [
        (r"So \boxed{B}.", "B", CAPITALS),
        (r"So $\boxed{\text{(B)}}$.", "B", CAPITALS),
        (r"\boxed{\textbf{(B) } Rome}", "B", CAPITALS),
        (r"\boxed{b}", "B", CAPITALS),
        (r"\boxed{Rome}", "B", CAPITALS),
        (r"\boxed{\text{Rome}}", "B", CAPITALS),
        (r"\boxed{15}", "B", NUMBERS),
        ("The answer is (B).", "B", CAPITALS),
        ("The answer is **B**.", "(B)", CAPITALS),
        ("The correct option is B because of its age.", "B.", CAPITALS),
        ("Answer: B", "B", CAPITALS),
        ("answer: b", "B", CAPITALS),
        ("Final answer: option B", "B", CAPITALS),
        ("The answer is A. No, wait: the answer is B.", "B", CAPITALS),
        ("The answer is Rome.", "B", CAPITALS),
        ("The answer is Rome, as it is the capital of Italy.", "B", CAPITALS),
        ("The best choice is: Rome", "B", CAPITALS),
        ("Therefore (B) is correct.", "B", CAPITALS),
        ("Let us see.\n\nB", "B", CAPITALS),
        ("Let us see.\n(B) Rome", "B", CAPITALS),
        ("Let us see.\nRome.", "B", CAPITALS),
        ("故选B。", "B", CAPITALS),
        ("所以答案是：B", "B", CAPITALS),
        ("答案为（Ｂ）", "B", CAPITALS),
        ("综上，选项B正确。", "B", CAPITALS),
        (r"\boxed{A, C}", "C, A", CAPITALS),
        (r"\boxed{A and C}", "AC", CAPITALS),
        ("The answers are A, C and D.", "ACD", CAPITALS),
        ("故选ACD。", "A,C,D", CAPITALS),
        ("Answer: B", "1", CAPITALS),
        ("Answer: B", "Rome", CAPITALS),
        ("Answer: B", r"\boxed{B}", {}),
        ("Answer: C", "C", {"choices": {"label": ["A", "B", "C"], "text": ["x", "y", "z"]}}),
        (r"\boxed{z}", "C", {"choices": {"label": ["1", "2", "3"], "text": ["x", "y", "z"]}}),
        (r"\boxed{yes}", "A", {"choices": ["A. yes", "B. no"]}),
        (r"\boxed{yes}", "A", {"options": ["(A) yes", "(B) no"]}),
        (
            r"\boxed{yes}",
            "A",
            {"choices": [{"label": "A", "text": "yes"}, {"label": "B", "text": "no"}]},
        ),
        ("\u202e\\boxed{\u200fB}\x00", "B", CAPITALS),
    ],
)
def test_right(verdict, answer, reference, metadata):
    decision = verdict(answer, reference, metadata)
    assert decision.keep is True, decision
    assert decision.evidence["answer"] == decision.evidence["reference"]


@pytest.mark.parametrize(
    ("answer", "reference", "reason"),
    [
        (r"\boxed{A}", "B", "wrong choice: got A, expected B"),
        (r"\boxed{Oslo}", "B", "wrong choice: got D, expected B"),
        (r"\boxed{A}", "A, C", "wrong choice: got A, expected AC"),
        (r"\boxed{A, B, C}", "A, C", "wrong choice: got ABC, expected AC"),
        ("It cannot be B. The answer is A.", "B", "wrong choice: got A, expected B"),
        ("故选A。", "B", "wrong choice: got A, expected B"),
        ("", "B", "no answer found"),
    ],
)
def test_wrong(verdict, answer, reference, reason):
    decision = verdict(answer, reference)
    assert decision.keep is False and decision.reason == reason


@pytest.mark.parametrize(
    ("answer", "reference", "why"),
    [
        ("Both seem plausible to me.", "B", "no option found in the answer"),
        ("The answer is not A.", "B", "no option found in the answer"),
        (r"\boxed{Berlin}", "B", "no option found in the answer"),
        (r"\boxed{F}", "B", "no option found in the answer"),
        ("The answer is a matter of taste.", "B", "no option found in the answer"),
        (r"\boxed{B}", None, "no reference answer"),
        (r"\boxed{B}", "Berlin", "the reference names no option"),
        (r"\boxed{B}", "F", "the reference names no option"),
    ],
)
def test_undecidable_is_not_wrong(verdict, answer, reference, why):
    decision = verdict(answer, reference)
    assert decision.keep is None and decision.reason == f"cannot tell: {why}"


def test_an_index_that_is_also_a_text_has_to_be_told_apart(verdict):
    digits = {"choices": ["1", "2", "3", "4"]}
    assert verdict(r"\boxed{C}", "2", digits).reason.startswith(
        "cannot tell: the reference may be index or text"
    )
    assert verdict(r"\boxed{C}", "2", digits, reference="index").keep
    assert verdict(r"\boxed{B}", "2", digits, reference="text").keep
    assert verdict(r"\boxed{B}", "2", digits, reference="index", first_index=1).keep


def test_two_options_of_one_text_are_not_chosen_by_it(verdict):
    assert verdict(r"\boxed{yes}", "A", {"choices": ["yes", "yes", "no"]}).keep is None


@pytest.mark.parametrize(
    "metadata",
    [
        {}, {"choices": None}, {"choices": 3}, {"choices": "ABCD"}, {"choices": []},
        {"choices": [1, None, {"a": 2}]}, {"choices": ["x"] * 40}, {"choices": {"label": ["A"]}},
        {"choices": {"label": ["A", "A"], "text": ["x", "y"]}},
    ],
)  # fmt: skip
def test_metadata_of_any_form(verdict, metadata):
    assert verdict(r"\boxed{B}", "B", metadata).keep in (True, None)
    assert isinstance(options_of(metadata), dict)


@given(st.text(max_size=200), st.text(max_size=20), st.lists(st.text(max_size=10), max_size=5))
def test_no_text_breaks_it(answer, reference, choices):
    from synth.core.record import Record, Task

    task = Task("t", "q", reference, "", {"choices": choices})
    build(Config(), Context())(Record("r", task, [], None, answer))


@pytest.mark.parametrize(
    "text",
    ["A, " * 300_000, "the answer is " * 60_000, "(" * 1_000_000, "A is correct " * 80_000,
     r"\boxed{" * 100_000, r"\boxed{B}" * 10_000, "选" * 500_000, "*" * 1_000_000, " \n" * 500_000,
     "\\text{" * 150_000, "A" * 1_000_000],
)  # fmt: skip
def test_hostile_texts_take_no_time(verdict, text):
    start = time.process_time()
    verdict(text, text[:100_000], {"choices": [text, "y"]})
    assert time.process_time() - start < 2
