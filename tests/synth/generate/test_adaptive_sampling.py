"""How much hope is left in a question, and what it is learned from."""

import asyncio
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.config.generate import Samples
from synth.core.record import Task
from synth.generate.adaptive_sampling import PassRateModel, Prior, fit_prior, question_features


def task(number, question="1 + 1", source="x", **metadata):
    return Task(f"t{number}", question, "2", source, metadata)


def plain(mean, strength):
    nothing = np.zeros(0)
    return Prior([], nothing, nothing, np.array([math.log(mean / (1 - mean))]), strength)


def until_two_pass(rate, draw):
    passed = failed = 0
    while passed < 2 and passed + failed < 12:
        if draw.random() < rate:
            passed += 1
        else:
            failed += 1
    return passed, failed


@pytest.mark.parametrize("a, b", [(0.4, 0.8), (2.0, 2.0), (1.0, 9.0)])
def test_the_prior_is_found_again_though_sampling_stopped_at_a_pass(a, b):
    draw = random.Random(1)
    outcomes = [until_two_pass(draw.betavariate(a, b), draw) for _ in range(1500)]
    found = fit_prior([{}] * 1500, outcomes)
    assert found.mean({}) == pytest.approx(a / (a + b), abs=0.05)
    assert math.log(found.strength / (a + b)) == pytest.approx(0, abs=0.7)


def test_what_is_seen_of_a_question_tells_its_hope():
    draw = random.Random(2)
    tasks = [task(i, "7 + 2" if i % 2 else "71 - 28", level=draw.choice("ab")) for i in range(64)]
    rates = [0.8 if t.question == "7 + 2" else 0.05 for t in tasks]
    found = fit_prior(
        [question_features(t) for t in tasks], [until_two_pass(rate, draw) for rate in rates]
    )
    easy, hard = (
        found.mean(question_features(task(0, q, level="a"))) for q in ("8 + 1", "93 - 45")
    )
    assert easy > 0.6 and hard < 0.15
    other = found.mean(question_features(task(0, "8 + 1", level="b")))
    assert other == pytest.approx(easy, abs=0.15)  # the level tells nothing


def test_metadata_tells_it_where_the_text_does_not():
    draw = random.Random(3)
    tasks = [task(i, level=f"Level {1 + i % 5}", id=str(i), solution="x" * 99) for i in range(100)]
    rates = [1 - 0.22 * (i % 5) for i in range(100)]
    found = fit_prior(
        [question_features(t) for t in tasks], [until_two_pass(rate, draw) for rate in rates]
    )
    assert all(name.startswith("level=") for name in found.features)
    hopes = [found.mean(question_features(task(0, level=f"Level {n}"))) for n in (1, 3, 5)]
    assert hopes[0] > 0.8 and hopes[0] > hopes[1] + 0.1 > hopes[2] + 0.2


def test_strange_metadata_does_no_harm():
    odd = task(0, "", a=float("nan"), b=float("inf"), c=1e308, d=None, e=[1], f={"g": 1}, h=-5)
    assert all(math.isfinite(value) for value in question_features(odd).values())
    found = fit_prior([question_features(odd)] * 8, [(0, 3)] * 8)
    assert found.features == [] and 0 < found.mean(question_features(odd)) < 0.3


@given(st.integers(0, 20), st.integers(0, 20))
def test_a_failure_takes_hope_and_a_pass_gives_some(passed, failed):
    prior = plain(0.25, 2.0)
    worse, same, better = (
        prior.predictive_pass_rate({}, p, f)
        for p, f in [(passed, failed + 1), (passed, failed), (passed + 1, failed)]
    )
    assert worse < same < better


def test_hope_is_learned_from_the_first_questions_of_each_source():
    model = PassRateModel(Samples(max=50, until_verified=1, give_up=0.05, learn=8))
    assert [model.begin("x") for _ in range(10)] == [True] * 8 + [False] * 2
    assert model.begin("y")
    for number in range(7):
        model.learn(task(number), {"": (0, 50)})
    assert not model.should_stop(task(9), "", 0, 40)
    model.learn(task(8), {"": (1, 0)})
    assert model.should_stop(task(9), "", 0, 40)
    assert not model.should_stop(task(9), "", 1, 1)
    assert not model.should_stop(task(9, source="y"), "", 0, 40)


def test_the_order_in_which_answers_came_changes_nothing():
    tasks = [task(i, "9" * (1 + i % 7), level=str(i % 3)) for i in range(20)]
    hopes = []
    for order in (tasks, tasks[::-1]):
        model = PassRateModel(Samples(max=50, until_verified=1, give_up=0.05, learn=20))
        for one in order:
            model.learn(one, {"": (int(one.id[1:]) % 2, int(one.id[1:]) % 5)})
        hopes.append(model._priors["x", ""].mean(question_features(tasks[0])))
    assert hopes[0] == hopes[1]


def test_without_give_up_nothing_is_learned_or_lost():
    model = PassRateModel(Samples(max=5, until_verified=1))
    assert not model.begin("x")
    assert not model.should_stop(task(0), "", 0, 1000)
    asyncio.run(asyncio.wait_for(model.wait_until_fitted("x"), 1))
