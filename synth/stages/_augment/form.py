"""`AugmentationRun`: one entry of the section `augment` or `rewrite` at work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from synth.config.augment import Augment, Rewrite
from synth.core.dataset import SplitWriter
from synth.core.prompts import Prompt
from synth.core.record import Record, Task, Verdict
from synth.generate.stats import GenerationStats
from synth.stages._augment.tags import unreadable
from synth.stages.build_teachers import ask_all, single_prompt_spec
from synth.stages.context import StageContext

Entry = TypeVar("Entry", Augment, Rewrite)


class AugmentationRun(ABC, Generic[Entry]):
    """Makes new questions or traces by one entry of the config, and counts what came of it.

    Args:
        context: Of the stage.
        entry: The entry.
        splits: Where new records go: `train` and `rejected`.

    Attributes:
        rejected: Why answers were rejected.
        skipped: Why nothing was asked about an old question or trace.
    """

    product: ClassVar[str]  # "questions" or "traces", for the user

    def __init__(
        self, context: StageContext, entry: Entry, splits: Mapping[str, SplitWriter]
    ) -> None:
        self.context, self.splits = context, splits
        self.entry: Entry = entry
        self.rejected: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self._stats: list[GenerationStats] = []

    @abstractmethod
    def totals(self) -> dict[str, int]:
        """Counts for the manifest; the last of them is how many records are new."""

    def figures(self) -> dict[str, Any]:
        """What came of it, for the manifest."""
        return {
            "make": self.entry.make,
            **self.totals(),
            "rejected": dict(self.rejected.most_common()),
            "skipped": dict(self.skipped),
            "counts": [stats.to_dict() for stats in self._stats],
        }

    def line(self) -> str:
        """What came of it, for the user."""
        *_, new = self.totals().values()
        parts = [f"{self.entry.name}: {new} new {self.product}"]
        for title, counter in (("rejected", self.rejected), ("not asked", self.skipped)):
            if counter:
                reasons = ", ".join(f"{reason} {n}" for reason, n in counter.most_common(4))
                parts.append(f"{title} {counter.total()} ({reasons})")
        return " · ".join(parts)

    def ask(
        self,
        teacher: str,
        prompt: Prompt,
        values: Mapping[str, Any],
        sampling: Any,
        samples: int,
        verdict: Callable[[Record], Verdict],
        tasks: Iterable[Task],
        total: int,
        emit: Callable[[Task, list[Record]], None],
    ) -> None:
        """Asks a teacher, with progress.

        Args:
            teacher: Its name in the config.
            prompt: What it is asked under.
            values: Of the prompt's variables.
            sampling: How each answer is sampled.
            samples: Answers to each task.
            verdict: Says of an answer whether it can be used.
            tasks: What is asked.
            total: How many these are.
            emit: Takes a task and its answers.
        """
        self._stats.append(stats := GenerationStats(questions_total=total))
        run, stage = self.context.run, self.context.stage
        spec = single_prompt_spec(
            run, [teacher], prompt, values, sampling, samples, lambda answer: [verdict(answer)]
        )
        title = f"{stage} {self.entry.name} ({prompt.name})"
        ask_all(run, spec, tasks, emit, stats, title)

    def readable(self, answer: Record, read: Callable[[], object]) -> Verdict:
        """Returns the verdict on an answer: no where `read` raises ValueError."""
        try:
            read()
        except ValueError as error:
            return Verdict(self.context.stage, False, unreadable(answer, error))
        return Verdict(self.context.stage, True)

    def reject(self, record: Record) -> None:
        """Writes a record that a verdict drops."""
        assert record.rejected_by is not None
        self.rejected[record.rejected_by.kind] += 1
        self.splits["rejected"].write(record)


def finish(runs: Iterable[AugmentationRun[Any]], context: StageContext) -> dict[str, Any]:
    """Says what came of each entry as it ends, and returns their part of the manifest."""
    forms = []
    for run in runs:
        forms.append(run.figures())
        context.say(f"  {run.line()}")
    failed = any(counts["failed"] for form in forms for counts in form["counts"])
    return {"forms": forms, "complete": not failed}


def teacher_of(context: StageContext, entry: Augment | Rewrite) -> str:
    """Returns the teacher of an entry: the first of the config where it names none."""
    return entry.teacher or next(iter(context.run.teachers))
