"""Who is asked next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.generate.routing import Router

NAMES = ["a", "b", "c"]


def order(kind, most, question="q", **more):
    return [(s.teacher, s.sample) for s in Router(kind, NAMES, **more).order(question, most)]


def test_turns_and_fallback_and_cascade():
    assert order("turns", 4) == [("a", 0), ("b", 1), ("c", 2), ("a", 3)]
    assert order("fallback", 2) == [("a", 0), ("a", 1)]
    assert order("cascade", 2, caps={"a": 1}) == [("a", 0), ("b", 0), ("b", 1), ("c", 0), ("c", 1)]


def test_weights_deal_by_share_and_the_same_each_time():
    weights = {"a": 1.0, "b": 3.0, "c": 6.0}
    dealt = [order("weights", 10, f"q{n}", weights=weights) for n in range(500)]
    assert dealt == [order("weights", 10, f"q{n}", weights=weights) for n in range(500)]
    for name, weight in weights.items():
        share = sum(t == name for slots in dealt for t, _ in slots) / 5000
        assert share == pytest.approx(weight / 10, abs=0.03)


@given(st.sampled_from(["turns", "weights", "fallback", "cascade"]), st.integers(1, 9), st.text())
def test_no_slot_comes_twice_and_more_samples_only_add(kind, most, question):
    weights = dict.fromkeys(NAMES, 1.0)
    short = order(kind, most, question, weights=weights)
    assert len(set(short)) == len(short)
    if kind != "cascade":
        assert order(kind, most + 1, question, weights=weights)[:most] == short


def test_substitutes_are_the_others_from_the_next_on():
    assert Router("turns", NAMES).substitutes("b") == ["c", "a"]
    assert Router("cascade", NAMES).substitutes("b") == []
