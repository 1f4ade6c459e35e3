"""Specification of a generation: everything that stays the same over its questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from synth.config.generate import Alarm, Budget, Samples, Sampling, Truncation
from synth.core.prompts import Prompt
from synth.core.record import Record, Verdict
from synth.core.usage import Price
from synth.generate.concurrency import ConcurrencyController, Limits
from synth.generate.routing import Router
from synth.teachers import Teacher, TeacherConfig, as_teacher

Check = Callable[[Record], list[Verdict]]


class VoteResult(NamedTuple):
    """Result of a vote: the final answer that most answers give, and how many of how many do."""

    answer: str
    votes: int
    total: int


@dataclass
class GenerationSpec:
    """Everything that stays the same over the questions of one generation."""

    teachers: Mapping[str, Teacher]  # by name, in the order of the config
    prices: Mapping[str, Price | None]  # of each teacher's tokens
    prompt: Prompt
    values: Mapping[str, Any]
    sampling: Sampling
    samples: Samples
    check: Check | None  # the trace filters, run as answers arrive
    concurrency: int = 64
    retries: int = 6
    options: Mapping[str, TeacherConfig] = field(default_factory=dict)  # of single teachers
    route: str = "turns"  # or weights, fallback, cascade; see `synth.generate.routing.Router`
    truncation: Truncation = field(default_factory=lambda: Truncation(alarm=None))
    alarm: Alarm = "off"  # what follows where money burns
    # Gives the answer on which some answers agree; `agree` votes make it a missing reference.
    vote: Callable[[Sequence[str]], VoteResult | None] | None = None
    agree: int = 3
    budget: Budget | None = None
    patience_s: float = 600.0
    count_tokens: Callable[[str], int] | None = None  # length in the student's tokens
    run: str = ""  # the name under which the store notes who bought; budgets count by it
    check_threads: int = 8  # records that may be checked at a time

    def __post_init__(self) -> None:
        """Wrap teachers of a user's own class, and give options to those that have none."""
        self.teachers = {name: as_teacher(teacher) for name, teacher in self.teachers.items()}
        for name, teacher in self.teachers.items():
            teacher.name = name
        self.options = {name: self.options.get(name) or TeacherConfig() for name in self.teachers}

    def controller(self, name: str) -> ConcurrencyController:
        """Return the concurrency controller of one of the teachers."""
        teacher, options = self.teachers[name], self.options[name]
        ceiling = options.concurrency or self.concurrency
        limits = Limits(ceiling, options.rpm, options.tpm, self.patience_s)
        return ConcurrencyController(limits, lambda: teacher.advertised, teacher.skip_probe)

    def router(self) -> Router:
        """Return how samples are dealt to the teachers."""
        weights = {name: options.weight for name, options in self.options.items()}
        caps = {name: own.samples for name, own in self.options.items() if own.samples}
        return Router(self.route, list(self.teachers), weights, caps)
