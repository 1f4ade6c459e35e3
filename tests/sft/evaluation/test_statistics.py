"""Intervals against published examples and against their own promise of coverage."""

import itertools
import math
import random
import statistics
from collections import Counter
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.evaluation.statistics import (
    _majority_drawn,
    compare,
    gap_closed,
    majority_at_k,
    mcnemar,
    mean_interval,
    paired_difference,
    pass_at_k,
    sign_flip,
    wilson,
)


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
    assert 0.93 <= coverage(draw, p, cache(lambda k: wilson(k, n))) <= 0.975


@pytest.mark.parametrize(
    ("both", "before", "after"), [(0.2, 0.05, 0.25), (0.4, 0.1, 0.1), (0.02, 0.01, 0.4)]
)
def test_the_paired_interval_covers_as_often_as_it_says(both, before, after):
    chance, n = random.Random(f"{both}/{before}/{after}"), 150

    outcomes = [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]
    shares = [both, before, after, 1 - both - before - after]

    def draw():
        drawn = Counter(chance.choices(outcomes, shares, k=n))
        return tuple(drawn[outcome] for outcome in outcomes)

    @cache  # most draws come more than once
    def interval(counts):
        rows = [row for row, count in zip(outcomes, counts, strict=True) for _ in range(count)]
        return paired_difference([a for a, _ in rows], [b for _, b in rows])[1:]

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


# --- several answers a question -------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(answers, data):
    k = data.draw(st.integers(1, len(answers)))
    subsets = list(itertools.combinations(answers, k))
    assert pass_at_k(len(answers), sum(answers), k) == pytest.approx(
        sum(map(any, subsets)) / len(subsets), abs=1e-12
    )


@given(st.integers(1, 6000), st.data())
def test_pass_at_k_of_thousands_equals_the_binomials(n, data):
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    exact = 1 - Fraction(math.comb(n - right, k), math.comb(n, k))
    assert pass_at_k(n, right, k) == pytest.approx(float(exact), rel=1e-9)


def test_small_chances_do_not_vanish():
    assert pass_at_k(10**12, 1, 1) == pytest.approx(1e-12, rel=1e-9)


@pytest.mark.parametrize(("n", "right", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_pass_at_k_refuses_what_cannot_be_drawn(n, right, k):
    with pytest.raises(ValueError, match="drawn"):
        pass_at_k(n, right, k)


def majority_by_enumeration(groups, silent, k):
    voters = [place for place, (votes, _) in enumerate(groups) for _ in range(votes)]
    chances = []
    for subset in itertools.combinations([*voters, *[None] * silent], k):
        votes = [subset.count(place) for place in range(len(groups))]
        leaders = [i for i, count in enumerate(votes) if count == max(votes) > 0]
        chances.append(statistics.fmean(groups[i][1] for i in leaders) if leaders else 0.0)
    return statistics.fmean(chances)


GROUPS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=4
).filter(lambda groups: sum(votes for votes, _ in groups) <= 9)


@given(GROUPS, st.integers(0, 2), st.data())
def test_majority_at_k_is_the_mean_over_all_subsets(groups, silent, data):
    k = data.draw(st.integers(1, sum(votes for votes, _ in groups) + silent))
    chance, error = majority_at_k(groups, silent, k)
    assert error == 0
    assert chance == pytest.approx(majority_by_enumeration(groups, silent, k), abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 8, 12])
def test_drawn_majorities_agree_with_counted_ones_within_their_error(k):
    groups = [(10, 1.0), (9, 0.0), (5, 0.25)]
    counted, none = majority_at_k(groups, 6, k)
    drawn, error = _majority_drawn(groups, 6, k)
    assert none == 0 < error < 0.01
    assert abs(counted - drawn) < 4 * error


def test_majority_of_thousands_is_drawn_and_says_its_error():
    chance, error = majority_at_k([(1500, 1.0), (1400, 0.0)] + [(1, 0.0)] * 100, 50, 500)
    assert 0.5 < chance < 1
    assert 0 < error < 0.01


def test_majority_without_votes_is_wrong_and_of_too_few_is_refused():
    assert majority_at_k([], 4, 3) == (0.0, 0.0)
    with pytest.raises(ValueError, match="drawn"):
        majority_at_k([(2, 1.0)], 1, 4)


# --- tests of a difference ------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_sign_test(better, worse):
    turned = better + worse
    tail = sum(math.comb(turned, i) for i in range(min(better, worse) + 1))
    expected = min(1.0, 2 * tail / 2**turned)
    assert mcnemar(*scores(3, worse, better, 5)) == pytest.approx(expected, rel=1e-9)


@given(
    st.lists(
        st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 1.0])] * 2), min_size=2, max_size=7
    ).filter(lambda pairs: sum(a != b for a, b in pairs) >= 2)
)
def test_the_permutation_test_counts_all_sign_patterns(pairs):
    moved = [b - a for a, b in pairs]
    sums = [
        sum(sign * one for sign, one in zip(signs, moved, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(moved))
    ]
    expected = statistics.fmean(abs(one) >= abs(sum(moved)) - 1e-9 for one in sums)
    assert sign_flip(*zip(*pairs, strict=True)) == pytest.approx(expected)


def test_the_permutation_test_counts_up_to_thirteen_changes():
    assert sign_flip([0.25] * 13, [0.5] * 13) == pytest.approx(2 / 2**13, rel=1e-12)


def test_a_drawn_permutation_test_is_repeatable_and_never_zero():
    before, after = [0.25] * 60, [0.5] * 60
    assert sign_flip(before, after) == sign_flip(before, after)
    assert 0 < sign_flip(before, after) < 0.001
    assert sign_flip(before, before) == 1


@pytest.mark.parametrize("samples", [1, 4])
def test_without_a_difference_it_is_seldom_found(samples):
    chance, found, repeats = random.Random(samples), 0, 120
    for _ in range(repeats):
        levels = [chance.random() for _ in range(12)]
        before, after = (
            [sum(chance.random() < p for _ in range(samples)) / samples for p in levels]
            for _ in range(2)
        )
        found += compare(before, after).p < 0.05
    assert found / repeats <= 0.11


def test_the_comparison_names_its_test():
    single = compare(*scores(2, 0, 20, 10))
    assert single.test == "McNemar's exact test"
    assert single[:3] == paired_difference(*scores(2, 0, 20, 10))
    assert single.p < 0.001
    assert compare([0.5, 0.0, 0.25], [0.5, 1.0, 0.5]).test == "paired permutation test"


# --- the gap to the teacher -----------------------------------------------------------------------


def test_the_share_of_the_gap_that_was_closed():
    before, after = [0.0] * 100, [1.0] * 40 + [0.0] * 60
    teacher = [1.0] * 80 + [0.0] * 20
    closed = gap_closed(before, after, teacher)
    assert closed.share == pytest.approx(0.5)
    # The delta method: the variance of a ratio of means over the same questions.
    ratios = [(a - 0.5 * t) / 0.8 for a, t in zip(after, teacher, strict=True)]
    half = 1.96 * statistics.stdev(ratios) / 10
    assert (closed.low, closed.high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.02)
    assert closed.why == ""


@pytest.mark.parametrize(
    ("teacher", "why"), [(0.5, "not measurably better"), (0.0, "worse than the student")]
)
def test_without_a_gap_there_is_no_share(teacher, why):
    before, after = [1.0] * 20 + [0.0] * 20, [1.0] * 30 + [0.0] * 10
    closed = gap_closed(
        before, after, [1.0] * round(40 * teacher) + [0.0] * round(40 - 40 * teacher)
    )
    assert closed.share is None
    assert why in closed.why
    assert closed.gap_low <= 0


@pytest.mark.slow
def test_the_interval_of_the_share_covers_as_often_as_it_says():
    chance, hits, repeats = random.Random(3), 0, 200
    for _ in range(repeats):
        draws = [[float(chance.random() < p) for _ in range(150)] for p in (0.1, 0.4, 0.7)]
        closed = gap_closed(*draws)
        hits += closed.low <= 0.5 <= closed.high
    assert hits / repeats >= 0.91


def test_scores_of_other_questions_have_no_gap():
    for args in (([1.0], [1.0, 0.0], [1.0]), ([1.0], [1.0], [1.0, 0.0]), ([], [], [])):
        with pytest.raises(ValueError, match="scores before"):
            gap_closed(*args)
