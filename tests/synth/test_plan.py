"""Who is asked next, and when a question is given up."""

import asyncio
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.generate_config import Samples
from synth.plan import Hope, Prior, Route, fit_prior

NAMES = ["a", "b", "c"]


def order(kind, most, question="q", **more):
    return [(s.teacher, s.sample) for s in Route(kind, NAMES, **more).order(question, most)]


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
    assert Route("turns", NAMES).substitutes("b") == ["c", "a"]
    assert Route("cascade", NAMES).substitutes("b") == ["c"]


@pytest.mark.parametrize("a, b", [(0.4, 0.8), (2.0, 2.0), (1.0, 9.0)])
def test_the_prior_is_found_again_though_sampling_stopped_at_a_pass(a, b):
    draw = random.Random(1)
    outcomes = []
    for _ in range(1500):
        rate, passed, failed = draw.betavariate(a, b), 0, 0
        while passed < 2 and passed + failed < 12:
            if draw.random() < rate:
                passed += 1
            else:
                failed += 1
        outcomes.append((passed, failed))
    found = fit_prior(outcomes)
    assert found.a / (found.a + found.b) == pytest.approx(a / (a + b), abs=0.05)
    assert math.log((found.a + found.b) / (a + b)) == pytest.approx(0, abs=0.7)


@given(st.integers(0, 20), st.integers(0, 20))
def test_a_failure_takes_hope_and_a_pass_gives_some(passed, failed):
    prior = Prior(0.5, 1.5)
    assert (
        prior.hope(passed, failed + 1) < prior.hope(passed, failed) < prior.hope(passed + 1, failed)
    )


def test_hope_is_learned_from_the_first_questions_of_each_source():
    hope = Hope(Samples(max=50, until_verified=1, give_up=0.05, learn=8))
    assert [hope.begin("x") for _ in range(10)] == [True] * 8 + [False] * 2
    assert hope.begin("y")
    for _ in range(7):
        hope.learn("x", {"": (0, 50)})
    assert not hope.lost("x", "", 0, 40)
    hope.learn("x", {"": (1, 0)})
    assert hope.lost("x", "", 0, 40)
    assert not hope.lost("x", "", 1, 1)
    assert not hope.lost("y", "", 0, 40)


def test_without_give_up_nothing_is_learned_or_lost():
    hope = Hope(Samples(max=5, until_verified=1))
    assert not hope.begin("x")
    assert not hope.lost("x", "", 0, 1000)
    asyncio.run(asyncio.wait_for(hope.known("x"), 1))
