"""Intervals against published examples and against their own promise of coverage."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.stats import mean_interval, paired_difference, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_limits(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(successes, n):
    with pytest.raises(ValueError, match="of"):
        wilson(successes, n)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_proportion(case):
    low, high = wilson(*case)
    assert 0 <= low <= case[0] / case[1] <= high <= 1


def scores(both, only_before, only_after, neither):
    before = [1.0] * (both + only_before) + [0.0] * (only_after + neither)
    after = [1.0] * both + [0.0] * only_before + [1.0] * only_after + [0.0] * neither
    return before, after


def test_the_paired_difference_of_equal_results_includes_zero():
    difference, low, high = paired_difference(*scores(20, 0, 0, 30))
    assert difference == 0
    assert low <= 0 <= high


def test_the_paired_difference_gives_the_published_limits():
    # Complete response before and after a therapy (Cavo et al. 2012); the limits are those that
    # the R package contingencytables, of a textbook's authors, expects of its own method 10.
    assert paired_difference(*scores(59, 6, 16, 80)) == pytest.approx(
        (0.0621, 0.0046, 0.1186), abs=5e-5
    )


def test_swapping_before_and_after_swaps_the_limits():
    before, after = scores(20, 5, 15, 40)
    difference, low, high = paired_difference(before, after)
    assert paired_difference(after, before) == pytest.approx((-difference, -high, -low))
    assert difference == pytest.approx(10 / 80)
    assert low < difference < high


def coverage(draw, truth, interval, repeats=3000):
    hits = 0
    for _ in range(repeats):
        low, high = interval(draw())
        hits += low <= truth <= high
    return hits / repeats


@pytest.mark.parametrize(("p", "n"), [(0.1, 50), (0.5, 100), (0.43, 200)])
def test_wilson_covers_as_often_as_it_says(p, n):
    chance = random.Random(f"{p}/{n}")
    draw = lambda: sum(chance.random() < p for _ in range(n))  # noqa: E731
    assert 0.93 <= coverage(draw, p, lambda k: wilson(k, n)) <= 0.975


@pytest.mark.parametrize(
    ("both", "before", "after"), [(0.2, 0.05, 0.25), (0.4, 0.1, 0.1), (0.02, 0.01, 0.4)]
)
def test_the_paired_interval_covers_as_often_as_it_says(both, before, after):
    chance, n = random.Random(f"{both}/{before}/{after}"), 150

    def draw():
        rows = []
        for _ in range(n):
            u = chance.random()
            if u < both:
                rows.append((1.0, 1.0))
            elif u < both + before:
                rows.append((1.0, 0.0))
            elif u < both + before + after:
                rows.append((0.0, 1.0))
            else:
                rows.append((0.0, 0.0))
        return rows

    interval = lambda rows: paired_difference([a for a, _ in rows], [b for _, b in rows])[1:]  # noqa: E731
    assert 0.93 <= coverage(draw, after - before, interval, 1500) <= 0.98


def test_means_over_several_samples_cover_as_often_as_they_say():
    chance, n, samples = random.Random(7), 80, 4

    def draw():
        levels = [chance.random() for _ in range(n)]
        return [sum(chance.random() < p for _ in range(samples)) / samples for p in levels]

    assert 0.93 <= coverage(draw, 0.5, mean_interval, 1500) <= 0.975


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40))
def test_intervals_of_scores_stay_in_bounds_and_hold_the_mean(values):
    low, high = mean_interval(values)
    mean = sum(values) / len(values)
    assert 0 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= 1


def test_alike_scores_still_leave_doubt():
    low, high = mean_interval([0.5] * 10)
    assert low < 0.5 < high
    difference, low, high = paired_difference([0.5] * 10, [0.5] * 10)
    assert (difference, low < 0 < high) == (0, True)


def test_what_cannot_be_compared_is_refused():
    for before, after in (([], []), ([1.0], [1.0, 0.0])):
        with pytest.raises(ValueError, match="before"):
            paired_difference(before, after)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])
    assert math.isfinite(mean_interval([1.0])[0])
