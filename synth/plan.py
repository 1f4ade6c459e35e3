"""Which samples of a question are wanted next, and from which teacher: pure functions.

A question is asked until enough of its answers are verified, its teachers' caps are reached, or
(with `give_up`) there is too little hope. Hope is the chance that the next answer passes. The pass
rates of a source's questions are taken to be spread by a beta distribution, fitted by maximum
likelihood to the first questions, which are all asked to the end; after s passes and f failures
the next answer of a question then passes with chance (a + s) / (a + b + s + f) (beta-binomial
model: Gelman et al., Bayesian Data Analysis, 3rd ed., section 2.4). Asking where this chance is
highest, and stopping everywhere at one threshold, gives the most verified answers for a number of
samples when questions differ only in what is seen of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from synth.generate_config import Samples


@dataclass(frozen=True, slots=True)
class Slot:
    """A sample that is wanted: from whom, and which of its samples of this question."""

    teacher: str
    sample: int


@dataclass(frozen=True, slots=True)
class Route:
    """How samples are dealt to teachers.

    Attributes:
        kind: turns, weights, fallback or cascade (`synth.generate_config.Generate.route`).
        teachers: Names, in the order of the config.
        weights: Share of each, with `weights`.
        caps: Most samples of each a question, with `cascade`.
    """

    kind: str
    teachers: Sequence[str]
    weights: Mapping[str, float] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)

    def order(self, question: str, most: int) -> Iterator[Slot]:
        """All samples that a question may get, in their order: at most `most` a tier.

        Args:
            question: The question's text: with `weights` it decides, with the sample's number and
                nothing else, who answers, so that a rerun asks the same.
            most: The cap on samples; of each teacher under `cascade`, else of all together.
        """
        if self.kind == "cascade":
            for name in self.teachers:
                for sample in range(min(most, self.caps.get(name, most))):
                    yield Slot(name, sample)
            return
        for sample in range(most):
            if self.kind == "turns":
                name = self.teachers[sample % len(self.teachers)]
            elif self.kind == "weights":
                name = self._drawn(question, sample)
            else:
                name = self.teachers[0]
            yield Slot(name, sample)

    def substitutes(self, name: str) -> list[str]:
        """Who stands in for a teacher that does not answer, in order."""
        place = list(self.teachers).index(name)
        if self.kind == "cascade":  # the cheaper ones had their turn
            return list(self.teachers[place + 1 :])
        return [*self.teachers[place + 1 :], *self.teachers[:place]]

    def _drawn(self, question: str, sample: int) -> str:
        text = f"{sample}:{question}".encode("utf-8", "surrogatepass")
        draw = int.from_bytes(hashlib.sha256(text).digest()[:7], "big") / 2**56
        draw *= sum(self.weights[name] for name in self.teachers)
        for name in self.teachers:
            draw -= self.weights[name]
            if draw < 0:
                return name
        return self.teachers[-1]


@dataclass(frozen=True, slots=True)
class Prior:
    """The spread of pass rates over questions: a beta distribution."""

    a: float
    b: float

    def hope(self, passed: int, failed: int) -> float:
        """Chance that the next answer passes."""
        return (self.a + passed) / (self.a + self.b + passed + failed)


def fit_prior(outcomes: Sequence[tuple[int, int]]) -> Prior:
    """The beta distribution under which the outcomes are likeliest, of a grid.

    That sampling stopped at some pass does not matter to the likelihood.

    Args:
        outcomes: Passes and failures of each question.
    """

    def log_likelihood(a: float, b: float) -> float:
        lgamma = math.lgamma
        base = lgamma(a + b) - lgamma(a) - lgamma(b)
        return sum(
            base + lgamma(a + s) + lgamma(b + f) - lgamma(a + b + s + f) for s, f in outcomes
        )

    means = [(i + 0.5) / 40 for i in range(40)]
    strengths = [0.25 * 1.6**i for i in range(14)]  # a + b, from one half of a coin to fixed rates
    grid = [(m * n, (1 - m) * n) for m in means for n in strengths]
    return Prior(*max(grid, key=lambda ab: log_likelihood(*ab)))


class Hope:
    """Learns, source by source and teacher by teacher, how much hope is left in a question."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._begun: dict[str, int] = {}
        self._outcomes: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self._done: dict[str, int] = {}
        self._priors: dict[tuple[str, str], Prior] = {}
        self._known: dict[str, asyncio.Event] = {}

    def begin(self, source: str) -> bool:
        """Whether the next question of a source, in the order of the data, is one to learn from.

        Which ones these are depends on the order alone, so that a rerun learns the same.
        """
        if self._samples.give_up is None:
            return False
        self._begun[source] = self._begun.get(source, 0) + 1
        return self._begun[source] <= self._samples.learn

    def learn(self, source: str, outcomes: Mapping[str, tuple[int, int]]) -> None:
        """Takes in a question to learn from: passes and failures by teacher."""
        self._done[source] = self._done.get(source, 0) + 1
        for teacher, outcome in outcomes.items():
            self._outcomes.setdefault((source, teacher), []).append(outcome)
        if self._done[source] == self._samples.learn:
            for key, found in self._outcomes.items():
                if key[0] == source:
                    self._priors[key] = fit_prior(found)
            self._event(source).set()

    async def known(self, source: str) -> None:
        """Waits until a source's prior is known.

        Who has had a first wave waits here before a second: what is given up then depends on the
        first questions alone and not on who was how fast, and a rerun buys nothing more.
        """
        if self._samples.give_up is not None:
            await self._event(source).wait()

    def release(self) -> None:
        """Lets everyone go who waits for a prior: the run stops."""
        for source in self._begun:
            self._event(source).set()

    def _event(self, source: str) -> asyncio.Event:
        return self._known.setdefault(source, asyncio.Event())

    def lost(self, source: str, teacher: str, passed: int, failed: int) -> bool:
        """Whether a question is to be given up with this teacher."""
        prior = self._priors.get((source, teacher))
        if prior is None or self._samples.give_up is None:
            return False
        return prior.hope(passed, failed) < self._samples.give_up
