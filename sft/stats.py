"""Intervals for what an evaluation measured. All are two-sided, at 95%.

Sources:
    Wilson (1927), Probable inference, the law of succession, and statistical inference,
        J. Am. Stat. Assoc. 22:209-212: the score interval of one proportion.
    Newcombe (1998), Improved confidence intervals for the difference between binomial proportions
        based on paired data, Stat. Med. 17:2635-2650: method 10.
    Miller (2024), Adding error bars to evals, arXiv:2411.00640: questions, not samples, are what
        was drawn, so several samples of a question are one cluster, and models are compared by
        the differences on the same questions.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

_Z = statistics.NormalDist().inv_cdf(0.975)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Args:
        successes: How many of the `n` were right.
        n: How many there were.

    Returns:
        Lower and upper limit, within [0, 1].

    Raises:
        ValueError: Not 0 <= successes <= n, or n is 0.

    >>> low, high = wilson(81, 263)  # Newcombe's example: 0.2553 to 0.3662
    >>> round(low, 4), round(high, 4)
    (0.2553, 0.3662)
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    p = successes / n
    centre = p + _Z**2 / (2 * n)
    spread = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    # At the ends the limit is exactly 0 or 1; rounding errors must not say otherwise.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == n else (centre + spread) / scale
    return low, high


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Interval of a mean over questions, by Student's t.

    A value is one question's score: its mean where it was sampled several times, which is the
    interval with questions as clusters (Miller 2024). Scores in [0, 1] keep their limits in it, and
    scores that are all 0 or 1 get Wilson's interval, which holds for few questions too.

    Args:
        values: One score a question.

    Returns:
        Lower and upper limit.

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
    """How much better the second of two results on the same questions is.

    Where each question has one sample (all scores 0 or 1), Newcombe's method 10; for means over
    several samples, Student's t over the differences question by question (Miller 2024).

    Args:
        before: One score in [0, 1] a question.
        after: The scores of the same questions in the same order.

    Returns:
        Mean of after minus before, lower and upper limit, within [-1, 1].

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
    return (
        p1 - p2,
        p1 - p2 - _joined(p1 - l1, u2 - p2, phi),
        p1 - p2 + _joined(u1 - p1, p2 - l2, phi),
    )


def _joined(one: float, other: float, phi: float) -> float:
    """Length of the difference of two errors with correlation phi."""
    return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def _t_interval(values: Sequence[float], reach: float) -> tuple[float, float]:
    """Student's interval of a mean.

    Values that are all alike have no variance to judge by. Then the share of questions that could
    be otherwise, unseen in n (Wilson's upper limit of 0 in n), times how far off one could be
    (`reach`), is what is left of doubt.
    """
    n, mean = len(values), statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(n) if n > 1 else 0.0
    # Values alike but for rounding count as alike.
    half = _t_quantile(n - 1) * error if error > 1e-12 else wilson(0, n)[1] * reach
    return mean - half, mean + half


def _t_quantile(freedom: int) -> float:
    """The 97.5% point of Student's t: closed forms for 1 and 2, else Abramowitz & Stegun 26.7.5."""
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 2 * 0.475 * math.sqrt(2 / (4 * 0.975 * 0.025))
    z, f = _Z, freedom
    return (
        z
        + (z**3 + z) / (4 * f)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * f**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * f**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * f**4)
    )


def _binary(values: Sequence[float]) -> bool:
    return all(value in (0, 1) for value in values)
