"""Ranges of figures that are not known yet, and prediction intervals from a sample of questions.

Sources:
    Stine (1985), Bootstrap prediction intervals for regression, J. Am. Stat. Assoc. 80:1026-1031:
        an interval for what is still to come takes in both that the sample might have been another
        and that the rest varies by itself.
    Hesterberg (2015), What teachers should know about the bootstrap, Am. Stat. 69:371-386:
        percentiles of a bootstrap are too narrow for small samples; the expanded percentile
        interval makes them as wide as Student's t would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000
MIN_SAMPLE = 5  # below, an interval would be a guess

Basis = Literal["exact", "95%", "bounds"]
_LOOSER: tuple[Basis, ...] = ("exact", "95%", "bounds")


@dataclass(frozen=True, slots=True)
class Range:
    """A figure that is not known yet, with its limits; None where nothing says."""

    low: float | None
    expected: float | None
    high: float | None
    basis: Basis = "bounds"  # less and more cannot be; 95%: an interval that was measured

    def __mul__(self, other: Range) -> Range:
        """Return the product of two figures of zero or more: a count and the size of each."""
        return self._with(other, _product)

    def __add__(self, other: Range) -> Range:
        """Return the sum of two figures. Adding the limits makes it too wide, never too narrow."""
        return self._with(other, _sum)

    def _with(self, other: Range, join: Callable[..., float | None]) -> Range:
        low, high = join(self.low, other.low), join(self.high, other.high)
        basis = loosest([self.basis, other.basis])
        return Range(low, join(self.expected, other.expected), high, basis)


def exactly(value: float) -> Range:
    """Return a figure that is known."""
    return Range(value, value, value, "exact")


def loosest(bases: Iterable[Basis]) -> Basis:
    """Return the basis of a figure that was computed from figures with these bases."""
    return max(bases, key=_LOOSER.index)


def _product(a: float | None, b: float | None) -> float | None:
    # None of something that nothing is known of is still nothing.
    return 0.0 if 0 in (a, b) else None if a is None or b is None else a * b


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def tail(n: int) -> float:
    """Return the percentile, from 0 to 1, at which a 95% interval from n questions begins.

    Hesterberg (2015): Phi(-sqrt(n / (n - 1)) t), with t the 97.5% point of Student's t.
    """
    from scipy import stats  # half a second to import

    return float(stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1)))


def mean_of(values: Sequence[float], seed: int) -> Range:
    """Return the mean of what the values were drawn from, as `ratio_of` does."""
    return ratio_of(values, np.ones(len(values)).tolist(), seed)


def ratio_of(above: Sequence[float], below: Sequence[float], seed: int) -> Range:
    """Return the ratio of two sums over the same items, with an interval by bootstrap over items.

    Raises:
        ValueError: There are fewer than `MIN_SAMPLE` items.
    """
    n = len(above)
    if n < MIN_SAMPLE:
        raise ValueError(f"{n} values")
    pairs = np.column_stack([above, below]).astype(float)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, [1 / n] * n, size=DRAWS if n < 500 else 1000) @ pairs
    ratios = drawn[:, 0] / drawn[:, 1]
    low, high = np.quantile(ratios, [tail(n), 1 - tail(n)])
    total = pairs.sum(axis=0)
    return Range(float(low), float(total[0] / total[1]), float(high), "95%")


def sums_of_more(
    sample: NDArray[np.float64],
    more: int,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return draws of what `more` further questions come to, and the expected sums.

    Each draw takes the sampled questions anew with replacement, and then from these the further
    questions (Stine 1985), so that its spread is that of a prediction and not of a mean.

    Args:
        sample: (n, c): what each sampled question came to, in c columns.
        more: How many further questions.
        low: (c,): least that the further ones can come to.
        high: (c,): most that they can come to.
        seed: Of the draws, (DRAWS, c).
    """
    from scipy.stats import binomtest

    n = len(sample)
    rng = np.random.default_rng(seed)
    shares = rng.multinomial(n, [1 / n] * n, size=DRAWS) / n
    # Of few further questions each is drawn; of many, how often each of the sample is.
    draws = rng.multinomial(more, shares) @ sample
    expected = more * sample.mean(axis=0)
    # A column that is all alike has no spread to judge by: the share of questions that could be
    # otherwise, unseen in n, times how far off they could be, is what is left of doubt.
    unseen = binomtest(0, n).proportion_ci(method="wilson").high
    for column in np.flatnonzero(np.ptp(sample, axis=0) == 0):
        mean = expected[column]
        draws[:, column] = rng.uniform(
            mean - unseen * max(0.0, mean - low[column]),
            mean + unseen * max(0.0, high[column] - mean),
            DRAWS,
        )
    return draws, expected


def interval(draws: NDArray[np.float64], expected: float, n: int) -> Range:
    """Return the 95% range of draws of `sums_of_more`, or of what was computed from them."""
    low, high = np.quantile(draws, [tail(n), 1 - tail(n)])
    return Range(min(float(low), expected), expected, max(float(high), expected), "95%")
