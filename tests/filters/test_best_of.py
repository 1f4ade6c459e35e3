import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters import best_of as module
from filters.base import Context
from synth.core.errors import UserError
from synth.core.record import Record, Task, Verdict


def trace(id, task="t", answer="", right=None, score=None):
    verdicts = [Verdict("math_answer", right), Verdict("judge", True, score=score)]
    return Record(id, Task(task, "q"), [], None, answer, None, verdicts)


def run(records, seed=0, **options):
    check = module.build(module.Config(**options), Context(seed=seed))
    return list(check(lambda: iter(records)))


def kept(records, **options):
    decisions = run(records, **options)
    return [r.id for r, d in zip(records, decisions, strict=True) if d.keep]


def test_the_shortest_that_was_verified_of_each_question():
    records = [
        trace("a", answer="1", right=False),
        trace("b", answer="1234", right=True),
        trace("c", answer="123", right=True),
        trace("d", answer="12", right=None),
        trace("e", task="u", answer="1", right=False),
    ]
    assert kept(records) == ["c", "e"]
    assert kept(records, k=3) == ["b", "c", "d", "e"]
    first = run(records)[0]
    assert first.reason == "not the best: 4 of 4"
    assert first.evidence == {"rank": 4, "of": 4, "best": ["c"]}
    assert (first.score, first.threshold) == (4, 1)


@pytest.mark.parametrize(
    ("by", "best"),
    [
        (["shortest"], "c"),
        (["longest"], "b"),
        (["first"], "b"),
        (["judge"], "a"),
        (["-judge"], "c"),
        (["verified", "judge"], "a"),
    ],
)
def test_orders(by, best):
    records = [
        trace("b", answer="123", right=True, score=None),
        trace("a", answer="12", right=True, score=9),
        trace("c", answer="1", right=None, score=2),
    ]
    assert kept(records, by=by) == [best]


def test_drawn_by_the_seed():
    records = [trace(f"r{i}") for i in range(40)]
    drawn = {tuple(kept(records, by=["random"], seed=seed)) for seed in range(10)}
    assert len(drawn) > 3
    assert kept(records, by=["random"], seed=3) == kept(records, by=["random"], seed=3)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("tuv"),
            st.text(max_size=3),
            st.sampled_from([True, False, None]),
            st.none() | st.floats(),
        ),
        max_size=20,
    ),
    st.integers(1, 3),
    st.sampled_from([["verified", "shortest"], ["judge"], ["-judge", "longest"], ["random"]]),
    st.randoms(use_true_random=False),
)
def test_exactly_k_of_each_and_in_no_order(rows, k, by, rng):
    records = [trace(f"r{i}", *row) for i, row in enumerate(rows)]
    found = kept(records, k=k, by=by)
    for task in {row[0] for row in rows}:
        mine = [r.id for r in records if r.task.id == task]
        assert len(set(found) & set(mine)) == min(k, len(mine))
    shuffled = rng.sample(records, len(records))
    assert set(kept(shuffled, k=k, by=by)) == set(found)


def test_a_filter_that_is_not_there_is_the_users_error():
    with pytest.raises(UserError, match="called 'juge'; did you mean 'judge'"):
        run([trace("a")], by=["verified", "-juge"])
    assert run([], by=["juge"]) == []
    with pytest.raises(ValidationError):
        module.Config(by=[])


def test_a_verifier_named_again_counts(record):
    made = [trace("a", right=True, answer="12"), trace("b", right=True, answer="1")]
    made[1].verdicts.append(Verdict("math_answer.2", False))
    made[1].verdicts.append(Verdict("no_such_filter", True))
    assert kept(made) == ["a"]
