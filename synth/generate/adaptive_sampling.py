"""Adaptive sampling: a model of the chance that a question's next answer passes.

The pass rates of a source's questions follow beta distributions with one strength n, whose means m
a logistic regression gives from a question's length, numbers, signs and metadata. After s passes
and f failures the next answer passes with chance (m n + s) / (n + s + f) (beta-binomial model:
Gelman et al., Bayesian Data Analysis, 3rd ed., sections 2.4 and 5.3). The first questions fit it by
maximum a posteriori. Stopping everywhere at one chance gives the most verified answers for a number
of samples.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synth.config.generate import Samples
from synth.core.record import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SIGNS = "+-*/^=({\\%"
_LONGEST_WORD = 40  # of a metadata value that is taken for a category
_SEEN = 4  # questions that have a feature, and that lack it, before it is taken for one
# Normal priors: of the weights of standardised features, of the mean's logit, of log n.
_WEIGHT_SD, _LOGIT_SD = 1.0, 3.0
_LOG_STRENGTH, _LOG_STRENGTH_SD = 1.0, 1.5


def question_features(task: Task) -> dict[str, float]:
    """Return what is seen of a question before it is asked: figures, and 1 for each category.

    >>> question_features(Task("a", "12 - 5", "7", metadata={"level": "Level 3"}))["level=Level 3"]
    1.0
    """
    text = task.question
    numbers = re.findall(r"\d+", text, re.ASCII)
    figures = {
        "characters": len(text),
        "words": len(text.split()),
        "numbers": len(numbers),
        "digits": sum(map(len, numbers)),
        "longest number": max(map(len, numbers), default=0),
        **{f"sign {sign}": text.count(sign) for sign in _SIGNS},
    }
    features = {name: math.log1p(value) for name, value in figures.items()}
    for name, value in task.metadata.items():
        if isinstance(value, bool) or (isinstance(value, str) and len(value) <= _LONGEST_WORD):
            features[f"{name}={value}"] = 1.0
        elif isinstance(value, int | float) and abs(value) < 1e300:  # neither infinite nor NaN
            features[f"{name}:"] = math.asinh(value)
    return features


@dataclass(frozen=True, slots=True)
class Prior:
    """A beta prior of pass rates, its mean a logistic regression on a question's features."""

    features: Sequence[str]  # names of those that count
    means: NDArray[np.float64]  # (features,)
    deviations: NDArray[np.float64]  # (features,)
    weights: NDArray[np.float64]  # (1 + features,): the constant, then of standardised features
    strength: float  # n, in answers: the weight of the mean beside a question's own answers

    def mean(self, seen: Mapping[str, float]) -> float:
        """Return the chance that the first answer passes."""
        import numpy as np

        row = np.array([seen.get(name, 0.0) for name in self.features])
        logit = float(self.weights[0] + (row - self.means) / self.deviations @ self.weights[1:])
        return 1 / (1 + math.exp(-min(max(logit, -14.0), 14.0)))

    def predictive_pass_rate(self, seen: Mapping[str, float], passed: int, failed: int) -> float:
        """Return the chance that the next answer passes (the beta-binomial's predictive mean)."""
        return (self.mean(seen) * self.strength + passed) / (self.strength + passed + failed)


def fit_prior(seen: Sequence[Mapping[str, float]], outcomes: Sequence[tuple[int, int]]) -> Prior:
    """Return the maximum a posteriori prior after some questions, under weak normal priors.

    `seen` has each question's features, `outcomes` its passes and failures. That sampling stopped
    at some pass does not matter to the likelihood.
    """
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import expit, gammaln

    counts = Counter(name for features in seen for name in features)
    names = sorted(
        name
        for name in counts
        if len({features.get(name, 0.0) for features in seen}) > 1
        and (counts[name] == len(seen) or _SEEN <= counts[name] <= len(seen) - _SEEN)
    )
    rows = np.array([[features.get(name, 0.0) for name in names] for features in seen])
    rows = rows.reshape(len(seen), len(names))
    means, deviations = rows.mean(axis=0), rows.std(axis=0)
    design = np.hstack([np.ones((len(seen), 1)), (rows - means) / deviations])
    passed, failed = np.array(outcomes, dtype=float).T

    def loss(point: NDArray[np.float64]) -> float:
        weights, n = point[:-1], np.exp(point[-1])
        mean = np.clip(expit(design @ weights), 1e-6, 1 - 1e-6)
        a, b = mean * n, (1 - mean) * n
        likelihood = (
            gammaln(n) - gammaln(a) - gammaln(b)
            + gammaln(a + passed) + gammaln(b + failed) - gammaln(n + passed + failed)
        )  # fmt: skip
        priors = (
            np.sum((weights[1:] / _WEIGHT_SD) ** 2)
            + (weights[0] / _LOGIT_SD) ** 2
            + ((point[-1] - _LOG_STRENGTH) / _LOG_STRENGTH_SD) ** 2
        )
        return float(priors / 2 - likelihood.sum())

    start = np.zeros(len(names) + 2)
    start[-1] = _LOG_STRENGTH
    best = minimize(loss, start, method="L-BFGS-B", bounds=[(-20, 20)] * len(start)).x
    return Prior(names, means, deviations, best[:-1], float(np.exp(best[-1])))


# What a question showed: its features, and passes and failures by teacher.
_Learned = tuple[dict[str, float], Mapping[str, tuple[int, int]]]


class PassRateModel:
    """Learns a prior for each source and teacher, and says which questions to give up."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._begun: Counter[str] = Counter()
        # By source, then by question.
        self._learned: defaultdict[str, dict[str, _Learned]] = defaultdict(dict)
        self._priors: dict[tuple[str, str], Prior] = {}
        self._fitted: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def begin(self, source: str) -> bool:
        """Return whether the next question of a source is one to learn from.

        That depends on the order of the data alone, so that a rerun learns the same.
        """
        if self._samples.give_up is None:
            return False
        self._begun[source] += 1
        return self._begun[source] <= self._samples.learn

    def learn(self, task: Task, outcomes: Mapping[str, tuple[int, int]]) -> None:
        """Take in a question to learn from: passes and failures by teacher."""
        learned = self._learned[task.source]
        learned[task.id] = question_features(task), outcomes
        if len(learned) < self._samples.learn:
            return
        # In an order of their own, so that the order in which they came changes no digit.
        rows = [learned[id] for id in sorted(learned)]
        for teacher in sorted({name for _, by_teacher in rows for name in by_teacher}):
            asked = [(seen, by[teacher]) for seen, by in rows if teacher in by]
            self._priors[task.source, teacher] = fit_prior(*zip(*asked, strict=True))
        self._fitted[task.source].set()

    async def wait_until_fitted(self, source: str) -> None:
        """Wait until a source's prior is fitted, before every wave but a question's first.

        What is given up then depends on the first questions alone and not on who was how fast, and
        a rerun buys nothing more.
        """
        if self._samples.give_up is not None:
            await self._fitted[source].wait()

    def end(self) -> None:
        """Let sources with too few questions to learn from be asked to the end: no more follow."""
        for source, begun in self._begun.items():
            if begun < self._samples.learn:
                self._fitted[source].set()

    def release(self) -> None:
        """Let everyone go who waits for a prior: the run stops."""
        for source in self._begun:
            self._fitted[source].set()

    def should_stop(self, task: Task, teacher: str, passed: int, failed: int) -> bool:
        """Return whether a question is to be given up with this teacher."""
        prior = self._priors.get((task.source, teacher))
        if prior is None or self._samples.give_up is None:
            return False
        chance = prior.predictive_pass_rate(question_features(task), passed, failed)
        return chance < self._samples.give_up
