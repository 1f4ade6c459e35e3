"""Which of several duplicates stays."""

import random

import pytest

from filters._dedup.base import RecordTable, select_survivors
from synth.core.errors import UserError
from synth.core.record import Verdict

FILTERS = ["exact_dedup", "near_dedup"]


def over(check, records):
    return list(check(lambda: iter(records)))


def stays(check, records):
    decisions = over(check, records)
    return [one.id for one, decision in zip(records, decisions, strict=True) if decision.keep]


@pytest.fixture
def same(record):
    """Four records of one text; only some are verified, one is judged wrong."""
    text = "the answer is five because two and three make five"
    records = [record(text, " " * n, id=id) for n, id in ((3, "a"), (1, "b"), (2, "c"), (0, "d"))]
    right, wrong = Verdict("math_answer.2", True), Verdict("math_answer", False, drops=False)
    for one, verdict, score in zip(records, (None, right, right, wrong), (1, 2, 3, 9), strict=True):
        one.verdicts = [Verdict("judge", True, "", float(score))]
        if verdict:
            one.verdicts.append(verdict)
    return records


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(
    ("best", "expected"),
    [
        (["verified"], "b"),
        (["first"], "a"),
        ([], "a"),
        (["shortest"], "d"),
        (["longest"], "a"),
        (["verified", "longest"], "c"),
        (["judge"], "d"),
        (["-judge"], "a"),
        (["verified", "judge"], "c"),
    ],
)
def test_the_best_stays(make, same, name, best, expected):
    check = make(name, best=best, on="trace")
    decisions = over(check, same)
    assert [one.id for one in same if decisions[same.index(one)].keep] == [expected]
    assert {d.evidence["partner"] for d in decisions if not d.keep} == {expected}


@pytest.mark.parametrize("name", FILTERS)
def test_several_stay_and_the_worst_goes(make, same, name):
    for one in same:
        one.reasoning = None
    assert stays(make(name, keep=3), same) == ["a", "b", "c"]
    assert stays(make(name, keep=9), same) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("name", FILTERS)
def test_the_datas_order_does_not_decide_what_best_decides(make, record, name):
    records = [record("one and the same text", id=f"{n}") for n in range(9)]
    for one in records:
        one.verdicts = [Verdict("judge", True, "", float(one.id))]
    random.Random(0).shuffle(records)
    assert stays(make(name, best=["judge"]), records) == ["8"]


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_that_did_not_run_is_no_order(make, same, name):
    with pytest.raises(UserError, match="'juge'; did you mean 'judge'"):
        over(make(name, best=["-juge"]), same)
    assert over(make(name, best=["judge"]), []) == []


def test_nothing_goes_without_a_partner_that_stays_and_two_that_stay_are_not_near(record):
    rng = random.Random(0)
    for _ in range(50):
        near = {(a, b) for a in range(12) for b in range(a) if rng.random() < 0.3}
        roll = RecordTable([])
        for n in range(12):
            roll.add(record(id=f"{n}"))
        admitted: list[int] = []

        def neighbours(number, near=near, admitted=admitted):
            return [(b, 0.9) for b in admitted if (number, b) in near or (b, number) in near]

        choice = select_survivors(range(12), roll, neighbours, admitted.append, 0.8)
        kept = {n for n in range(12) if not choice.dropped[n]}
        assert not any(a in kept and b in kept for a, b in near)
        assert all(int(choice.partner[n]) in kept for n in range(12) if n not in kept)
