"""Which samples of a question are wanted, from which teacher: a pure function."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SampleSlot:
    """A sample that is wanted: from whom, and which of its samples of this question."""

    teacher: str
    sample: int


@dataclass(frozen=True, slots=True)
class Router:
    """How samples are dealt to teachers.

    Attributes:
        kind: turns, weights, fallback or cascade (`synth.config.generate.Generate.route`).
        teachers: Names, in the order of the config.
        weights: Share of each, with `weights`.
        caps: Most samples of each a question, with `cascade`.
    """

    kind: str
    teachers: Sequence[str]
    weights: Mapping[str, float] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)

    def order(self, question: str, most: int) -> Iterator[SampleSlot]:
        """All samples that a question may get, in their order: at most `most` a tier.

        Args:
            question: The question's text: with `weights` it decides, with the sample's number and
                nothing else, who answers, so that a rerun asks the same.
            most: The cap on samples; of each teacher under `cascade`, else of all together.
        """
        if self.kind == "cascade":
            for name in self.teachers:
                for sample in range(min(most, self.caps.get(name, most))):
                    yield SampleSlot(name, sample)
            return
        for sample in range(most):
            if self.kind == "turns":
                name = self.teachers[sample % len(self.teachers)]
            elif self.kind == "weights":
                name = self._drawn(question, sample)
            else:
                name = self.teachers[0]
            yield SampleSlot(name, sample)

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
