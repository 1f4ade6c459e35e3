"""Estimates, intervals and tests for what an evaluation measured. All are two-sided, at 95%.

Sources:
    Wilson (1927), Probable inference, the law of succession, and statistical inference,
        J. Am. Stat. Assoc. 22:209-212: the score interval of one proportion.
    Newcombe (1998), Improved confidence intervals for the difference between binomial proportions
        based on paired data, Stat. Med. 17:2635-2650: method 10.
    Miller (2024), Adding error bars to evals, arXiv:2411.00640: questions, not samples, are what
        was drawn, so several samples of a question are one cluster, and models are compared by
        the differences on the same questions.
    Chen et al. (2021), Evaluating large language models trained on code, arXiv:2107.03374: pass@k.
    Wang et al. (2022), Self-consistency improves chain of thought reasoning in language models,
        arXiv:2203.11171: the answer of the majority.
    McNemar (1947), Note on the sampling error of the difference between correlated proportions or
        percentages, Psychometrika 12:153-157; here its exact form, the sign test.
    Phipson & Smyth (2010), Permutation p-values should never be zero, Stat. Appl. Genet. Mol. Biol.
        9:39; Efron & Tibshirani (1993), An introduction to the bootstrap, chapter 13: percentiles.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit
from scipy.stats import binomtest, permutation_test

RESAMPLES = 9999  # of a permutation test or a bootstrap: a p-value of 0.05 is off by 0.002
_DRAWS = 4000  # of subsets in a majority@k that is too large to count
_EXACT_WORK = 100_000  # steps that one exact majority@k may take


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Returns the limits, within [0, 1], of Wilson's score interval of a proportion.

    Raises:
        ValueError: Not 0 <= successes <= n, or n is 0.

    >>> low, high = wilson(81, 263)  # Newcombe's example: 0.2553 to 0.3662
    >>> round(low, 4), round(high, 4)
    (0.2553, 0.3662)
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    limits = binomtest(successes, n).proportion_ci(method="wilson")
    return float(limits.low), float(limits.high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the limits of a mean over questions, by Student's t.

    A value is one question's score: its mean where it was sampled several times, which is the
    interval with questions as clusters (Miller 2024). Scores in [0, 1] keep their limits in it, and
    scores that are all 0 or 1 get Wilson's interval, which holds for few questions too.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no values")
    if _binary(values):
        return wilson(round(sum(values)), len(values))
    bounded = all(0 <= value <= 1 for value in values)
    low, high = _t_interval(values, 1.0 if bounded else 0.0)
    return (max(0.0, low), min(1.0, high)) if bounded else (low, high)


def paired_difference(
    before: Sequence[float], after: Sequence[float]
) -> tuple[float, float, float]:
    """Returns the mean of after minus before on the same questions, and its limits in [-1, 1].

    Where each question has one sample (all scores 0 or 1), Newcombe's method 10; for means over
    several samples, Student's t over the differences question by question (Miller 2024). Both are
    scores in [0, 1], in the same order.

    Raises:
        ValueError: The lists are empty or differ in length.
    """
    if not before or len(before) != len(after):
        raise ValueError(f"{len(before)} scores before and {len(after)} after")
    if _binary(before) and _binary(after):
        return _newcombe_10(before, after)
    differences = [b - a for a, b in zip(before, after, strict=True)]
    low, high = _t_interval(differences, 1.0)
    return statistics.fmean(differences), max(-1.0, low), min(1.0, high)


class Comparison(NamedTuple):
    """How two results on the same questions differ."""

    difference: float  # mean of the second minus the first
    low: float  # limits of its 95% interval
    high: float
    p: float  # two-sided p-value of no difference
    test: str  # which test gave it


def compare(before: Sequence[float], after: Sequence[float]) -> Comparison:
    """Returns `paired_difference` of two results with a test of whether there is one.

    One answer a question (all scores 0 or 1): McNemar's exact test. Means over several answers: a
    permutation test that flips the signs of the differences question by question, over all
    patterns where `RESAMPLES` hold them and else over as many at random, always the same ones.

    Raises:
        ValueError: The lists are empty or differ in length.
    """
    difference = paired_difference(before, after)
    if _binary(before) and _binary(after):
        return Comparison(*difference, mcnemar(before, after), "McNemar's exact test")
    return Comparison(*difference, sign_flip(before, after), "paired permutation test")


def mcnemar(before: Sequence[float], after: Sequence[float]) -> float:
    """Returns the p-value of McNemar's exact test: a fair coin over the questions that turned.

    >>> mcnemar([0] * 10 + [1, 1], [1] * 10 + [0, 1])  # 10 became right, 1 wrong
    0.01171875
    """
    better = sum(b > a for a, b in zip(before, after, strict=True))
    turned = sum(b != a for a, b in zip(before, after, strict=True))
    return float(binomtest(better, turned).pvalue) if turned else 1.0


def sign_flip(before: Sequence[float], after: Sequence[float]) -> float:
    """Returns the p-value of the paired permutation test on the mean difference.

    >>> sign_flip([0, 0.25, 0.5], [0.5, 0.5, 0.75])  # 2 of the 8 sign patterns are as extreme
    0.25
    """
    # A difference of 0 is the same with either sign.
    moved = [b - a for a, b in zip(before, after, strict=True) if a != b]
    if len(moved) < 2:  # the test needs two; one sign or none says nothing
        return 1.0
    test = permutation_test(
        (np.array(moved),),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=1 + 2_000_000 // len(moved),
        random_state=np.random.default_rng(0),
    )
    return float(test.pvalue)


class Closed(NamedTuple):
    """Which share of the gap between student and teacher was closed."""

    share: float | None  # (after - before) / (teacher - before); None where it is undefined
    low: float | None  # limits of its 95% interval
    high: float | None
    gap: float  # mean of teacher minus before, with its limits
    gap_low: float
    gap_high: float
    why: str = ""  # why the share is undefined


def gap_closed(before: Sequence[float], after: Sequence[float], teacher: Sequence[float]) -> Closed:
    """Returns which share of the gap training closed, by a bootstrap over questions.

    A question is drawn with all three of its scores, so what makes it hard for everyone cancels.
    A gap that may be 0 gives no share: a ratio by it can be anything. All are scores in [0, 1] of
    the same questions in the same order.

    Raises:
        ValueError: The lists are empty or differ in length.
    """
    if len(after) != len(before):
        raise ValueError(f"{len(before)} scores before and {len(after)} after")
    gap, low, high = paired_difference(before, teacher)
    if low <= 0:
        verdict = "not measurably better" if high >= 0 else "worse"
        why = f"the teacher is {verdict} than the student was"
        return Closed(None, None, None, gap, low, high, why)
    scores = np.array([before, after, teacher], dtype=float)
    # Questions with the same three scores are alike: draw how many of each kind are in a sample.
    kinds, counts = np.unique(scores, axis=1, return_counts=True)
    n, rng = len(before), np.random.default_rng(0)
    rows = 1 + 2_000_000 // len(counts)
    sums = np.concatenate(
        [
            rng.multinomial(n, counts / n, size=min(rows, RESAMPLES - at)) @ kinds.T
            for at in range(0, RESAMPLES, rows)
        ]
    )
    gaps = sums[:, 2] - sums[:, 0]
    # Where the gap vanishes or turns in a sample, the share has no bound on either side.
    positive = gaps > 1e-9
    if np.mean(~positive) > 0.025:
        return Closed(None, None, None, gap, low, high, "the gap is too uncertain")
    shares = (sums[positive, 1] - sums[positive, 0]) / gaps[positive]
    share = (statistics.fmean(after) - statistics.fmean(before)) / gap
    ends = np.quantile(shares, [0.025, 0.975]).tolist()
    return Closed(share, ends[0], ends[1], gap, low, high)


def pass_at_k(n: int, right: int, k: int) -> float:
    """Returns the chance that one of k answers is right, without bias (Chen et al. 2021, eq. 1).

    1 - C(n - right, k) / C(n, k), as a product of the smaller number of factors, so that neither
    thousands of answers overflow nor small chances vanish in rounding. Of the n answers k are
    drawn, without putting back.

    Raises:
        ValueError: Not 0 <= right <= n, or not 1 <= k <= n.

    >>> round(pass_at_k(5, 2, 2), 10)  # 1 - 3/10
    0.7
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"{right} right of {n}, {k} drawn")
    if n - right < k:
        return 1.0
    few, many = sorted((right, k))
    return -math.expm1(math.fsum(math.log1p(-many / (n - i)) for i in range(few)))


def majority_at_k(groups: Sequence[tuple[int, float]], silent: int, k: int) -> tuple[float, float]:
    """Returns the chance that the majority of k answers is right (Wang et al. 2022), and its error.

    The mean over all subsets of k. Groups with equally many votes are chosen among by lot; a
    subset in which nobody votes is wrong. It is counted exactly where that takes few steps (the
    error is 0 then), and else drawn, always with the same numbers (it is the standard error).

    Args:
        groups: For each different answer, how many give it and which share of those is right.
        silent: Answers without a final answer: they do not vote.
        k: Answers in a subset.

    Raises:
        ValueError: k is not within 1 and the number of answers.

    >>> majority_at_k([(3, 1.0), (2, 0.0)], 0, 3)  # 7 of the 10 subsets hold two of the three
    (0.7, 0.0)
    """
    n = sum(votes for votes, _ in groups) + silent
    if not 1 <= k <= n:
        raise ValueError(f"{k} drawn of {n}")
    right = [index for index, (_, share) in enumerate(groups) if share > 0]
    if not right:
        return 0.0, 0.0
    if k == n:
        top = max(votes for votes, _ in groups)
        return statistics.fmean(share for votes, share in groups if votes == top), 0.0
    if len(right) * len(groups) * k**3 > _EXACT_WORK:
        return _majority_drawn(groups, silent, k)
    # Each group's part once, not once a winner: groups of one size do the same.
    won: dict[int, float] = {}
    for index in right:
        votes = groups[index][0]
        if votes not in won:
            others = [votes for other, (votes, _) in enumerate(groups) if other != index]
            won[votes] = _wins(votes, others, silent, k) / math.comb(n, k)
    return sum(groups[index][1] * won[groups[index][0]] for index in right), 0.0


def _wins(votes: int, others: Sequence[int], silent: int, k: int) -> float:
    """Counts the subsets of k in which the group leads; a tie counts as its share of the lot."""
    ways = 0.0
    for top in range(1, min(votes, k) + 1):
        # Ways to draw so many from the others, none of which gets more than `top`, by (drawn, tied)
        table = {(0, 0): 1}
        for other in others:
            longer: dict[tuple[int, int], int] = defaultdict(int)
            for (drawn, tied), count in table.items():
                for extra in range(min(other, top, k - top - drawn) + 1):
                    longer[drawn + extra, tied + (extra == top)] += count * math.comb(other, extra)
            table = longer
        for (drawn, tied), count in table.items():
            rest = math.comb(silent, k - top - drawn)
            ways += count * rest * math.comb(votes, top) / (tied + 1)
    return ways


def _majority_drawn(
    groups: Sequence[tuple[int, float]], silent: int, k: int
) -> tuple[float, float]:
    """Returns the same by random subsets, with the standard error."""
    colours = [*(votes for votes, _ in groups), silent]
    rng = np.random.default_rng(0)
    drawn = rng.multivariate_hypergeometric(colours, k, size=_DRAWS, method="marginals")
    votes = drawn[:, :-1]
    top = votes.max(axis=1, keepdims=True)
    leads = (votes == top) & (top > 0)
    shares = leads @ np.array([share for _, share in groups]) / np.maximum(1, leads.sum(axis=1))
    return float(shares.mean()), float(shares.std(ddof=1) / math.sqrt(_DRAWS))


def _newcombe_10(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """Newcombe's method 10: Wilson's limits of both proportions, joined by their correlation."""
    n = len(before)
    both = sum(1 for a, b in zip(before, after, strict=True) if a and b)
    right_before, right_after = round(sum(before)), round(sum(after))
    p1, p2 = right_after / n, right_before / n
    (l1, u1), (l2, u2) = wilson(right_after, n), wilson(right_before, n)
    neither = n - right_before - right_after + both
    product: float = both * neither - (right_after - both) * (right_before - both)
    if product > 0:
        product = max(product - n / 2, 0)  # the correction for continuity, on this side alone
    margins = right_before * (n - right_before) * right_after * (n - right_after)
    phi = product / math.sqrt(margins) if margins else 0.0

    def joined(error1: float, error2: float) -> float:
        """Length of the difference of two errors with correlation phi."""
        return math.sqrt(max(0.0, error1**2 - 2 * phi * error1 * error2 + error2**2))

    return p1 - p2, p1 - p2 - joined(p1 - l1, u2 - p2), p1 - p2 + joined(u1 - p1, p2 - l2)


def _t_interval(values: Sequence[float], reach: float) -> tuple[float, float]:
    """Returns the limits of a mean by Student's t.

    Values that are all alike have no variance to judge by. Then the share of questions that could
    be otherwise, unseen in n (Wilson's upper limit of 0 in n), times how far off one could be
    (`reach`), is what is left of doubt.
    """
    n, mean = len(values), statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(n) if n > 1 else 0.0
    # Values alike but for rounding count as alike.
    half = float(stdtrit(n - 1, 0.975)) * error if error > 1e-12 else wilson(0, n)[1] * reach
    return mean - half, mean + half


def _binary(values: Sequence[float]) -> bool:
    return all(value in (0, 1) for value in values)
