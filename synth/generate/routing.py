"""Router: which samples of a question are wanted, from which teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SampleSlot:
    """A sample that is wanted: the teacher, and the number of its sample of this question."""

    teacher: str
    sample: int


@dataclass(frozen=True, slots=True)
class Router:
    """How samples are dealt to teachers, by `synth.config.generate.Generate.route`."""

    kind: str  # turns, weights, fallback or cascade
    teachers: Sequence[str]  # names, in the order of the config
    weights: Mapping[str, float] = field(default_factory=dict)  # shares, with `weights`
    caps: Mapping[str, int] = field(default_factory=dict)  # samples a question, with `cascade`

    def order(self, question: str, max_samples: int) -> Iterator[SampleSlot]:
        """Yield all samples that a question may get, in their order: at most `max_samples`.

        Under `cascade` that is the cap of each teacher. With `weights` the question's text and the
        sample's number decide who answers, and nothing else, so that a rerun asks the same.
        """
        if self.kind == "cascade":
            for name in self.teachers:
                for sample in range(min(max_samples, self.caps.get(name, max_samples))):
                    yield SampleSlot(name, sample)
            return
        for sample in range(max_samples):
            if self.kind == "turns":
                name = self.teachers[sample % len(self.teachers)]
            elif self.kind == "weights":
                name = self._drawn(question, sample)
            else:
                name = self.teachers[0]
            yield SampleSlot(name, sample)

    def substitutes(self, name: str) -> list[str]:
        """Return who answers in place of a teacher that does not, in order."""
        if self.kind == "cascade":  # each has samples of its own
            return []
        index = self.teachers.index(name)
        return [*self.teachers[index + 1 :], *self.teachers[:index]]

    def _drawn(self, question: str, sample: int) -> str:
        text = f"{sample}:{question}".encode("utf-8", "surrogatepass")
        draw = int.from_bytes(hashlib.sha256(text).digest()[:7], "big") / 2**56
        draw *= sum(self.weights[name] for name in self.teachers)
        for name in self.teachers:
            draw -= self.weights[name]
            if draw < 0:
                return name
        return self.teachers[-1]
