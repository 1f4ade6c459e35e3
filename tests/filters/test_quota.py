from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters import quota as module
from filters.base import Context
from synth.core.errors import UserError
from synth.core.record import Record, Task

GROUPS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), max_size=40)


def made(groups):
    return [
        Record(f"r{i}", Task(f"t{i}", "q", None, source, {"level": level}), [], None, "")
        for i, (source, level) in enumerate(groups)
    ]


def run(records, seed=0, **options):
    check = module.build(module.Config(**options), Context(seed=seed))
    return list(check(lambda: iter(records)))


def kept(records, **options):
    decisions = run(records, **options)
    return [r for r, d in zip(records, decisions, strict=True) if d.keep]


def test_at_most_so_many_of_a_group():
    records = made([("a", 1)] * 5 + [("b", 1)] * 2)
    decisions = run(records, max=3)
    dropped = [d for d in decisions if not d.keep]
    assert [d.reason for d in dropped] == ["over the quota: 3 of 5 in a"] * 2
    assert dropped[0].evidence == {"group": "a", "of": 5, "taken": 3}
    assert (dropped[0].score, dropped[0].threshold) in ((4, 3), (5, 3))
    assert len(kept(records, max={"a": 1})) == 3


def test_groups_of_several_keys():
    records = made([("a", 1), ("a", 1), ("a", 2), ("b", 1)])
    assert len(kept(records, by=["source", "metadata.level"], max=1)) == 3
    assert len(kept(records, by=["source", "metadata.level"], max={"a / 1": 0})) == 2


def test_the_first_or_drawn_by_the_seed():
    records = made([("a", 1)] * 50)
    assert kept(records, max=5, take="first") == records[:5]
    one, other = kept(records, max=5, seed=1), kept(records, max=5, seed=2)
    assert one == kept(records, max=5, seed=1) != other


@given(GROUPS, st.integers(1, 50), st.none() | st.integers(0, 10))
def test_equal_shares(groups, total, cap):
    records = made(groups)
    sizes = Counter(source for source, _ in groups)
    most = {name: size if cap is None else min(size, cap) for name, size in sizes.items()}
    found = Counter(r.task.source for r in kept(records, total=total, max=cap))
    assert found.total() == min(total, sum(most.values()))
    # No group gets more than one above another that could have given more.
    for one in most:
        for other in most:
            assert found[one] <= found[other] + 1 or found[other] == most[other]


@given(GROUPS, st.integers(1, 50))
def test_proportional_shares(groups, total):
    sizes = Counter(source for source, _ in groups)
    found = Counter(r.task.source for r in kept(made(groups), total=total, shares="proportional"))
    assert found.total() == min(total, len(groups))
    for name, size in sizes.items():
        assert abs(found[name] - size * min(total, len(groups)) / len(groups)) < 1


@given(GROUPS, st.integers(1, 20), st.randoms(use_true_random=False))
def test_the_datas_order_does_not_matter(groups, total, rng):
    records = made(groups)
    shuffled = rng.sample(records, len(records))
    one = {r.id for r in kept(records, total=total, seed=3)}
    assert one == {r.id for r in kept(shuffled, total=total, seed=3)}


def test_what_is_not_there_is_the_users_error():
    records = made([("a", 1), ("b", 2)])
    with pytest.raises(
        UserError, match=r"no record has metadata.levl; did you mean 'metadata.level'"
    ):
        run(records, by=["metadata.levl"], max=1)
    with pytest.raises(UserError, match="no group 'c'; known: a, b"):
        run(records, max={"c": 1})
    for wrong in ({}, {"by": ["level"], "max": 1}, {"by": [], "max": 1}, {"total": 0}):
        with pytest.raises(ValidationError):
            module.Config(**wrong)


def test_nothing_comes_of_nothing():
    assert run([], total=3) == run([], max={"c": 1}) == []
    assert module.memory(module.Config(max=1), 1000) > 0
