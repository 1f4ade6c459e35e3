import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import length_sample as module
from filters.base import Context
from synth.core.errors import UserError
from synth.core.record import Record, Task

ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=40)


def made(rows):
    return [
        Record(f"r{i}", Task(f"t{i}", "q", None, source), [], "x" * length, "")
        for i, (source, length) in enumerate(rows)
    ]


def run(records, total, seed=0, **options):
    check = module.build(module.Config(total=total, **options), Context(seed=seed))
    return list(check(lambda: iter(records)))


def kept(records, total, seed=0):
    decisions = run(records, total, seed)
    return {r.id for r, d in zip(records, decisions, strict=True) if d.keep}


@given(ROWS, st.integers(1, 50), st.integers(0, 5), st.randoms(use_true_random=False))
def test_exactly_so_many_whatever_the_order(rows, total, seed, rng):
    records = made(rows)
    found = kept(records, total, seed)
    assert len(found) == min(total, len(records))
    assert found == kept(rng.sample(records, len(records)), total, seed)


def test_every_dropped_record_has_its_rank():
    decisions = run(made([("a", 5), ("a", 9), ("a", 7)]), 1)
    assert sorted(d.score for d in decisions) == [1, 2, 3]
    assert [d.score for d in decisions] == [3, 1, 2]
    dropped = next(d for d in decisions if not d.keep)
    assert dropped.reason.startswith("not drawn: rank ") and dropped.evidence == {
        "domain": "a",
        "of": 3,
    }


def test_the_distribution_is_that_of_the_rule():
    # One draw of 4 records: 8/15, 4/15, 2/15, 1/15 by length.
    counts = Counter(module._geometric(random.Random(seed), 4) for seed in range(6000))
    for rank, share in enumerate((8, 4, 2, 1)):
        assert counts[rank] / 6000 == pytest.approx(share / 15, abs=0.02)
    assert module._geometric(random.Random(1), 1) == 0
    assert all(module._geometric(random.Random(s), 10**6) < 60 for s in range(1000))


def test_domains_are_alike_and_long_traces_win():
    rows = [("big", n) for n in range(900)] + [("small", n) for n in range(100)]
    records = made(rows)
    chosen = kept(records, 100)
    found = [r for r in records if r.id in chosen]
    sources = Counter(r.task.source for r in found)
    assert abs(sources["big"] - sources["small"]) < 40
    big = sorted(len(r.reasoning) for r in found if r.task.source == "big")
    assert min(big) > 800  # among 900 the 2^-rank of the shorter is next to nothing


def test_a_key_that_is_not_there_is_the_users_error():
    with pytest.raises(UserError, match=r"no record has metadata.domain"):
        run(made([("a", 1)]), 1, by=["metadata.domain"])
    assert run([], 5) == []
    assert module.memory(module.Config(total=1), 10) > 0
