"""`AugmentationRun`: one entry of the section `augment` or `rewrite` at work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from synth.config.augment import Agreement, Augment, Rewrite
from synth.core.dataset import SplitWriter
from synth.core.prompts import Prompt
from synth.core.record import Record, Task, Verdict
from synth.generate.stats import GenerationStats
from synth.stages.build_teachers import ask_all, build_teacher, counted, single_prompt_spec
from synth.stages.context import StageContext

Entry = TypeVar("Entry", Augment, Rewrite)


def shared_inputs(
    section: Sequence[Augment | Rewrite],
    context: StageContext,
    prompts: Iterable[Prompt],
    teachers: Iterable[str],
) -> dict[str, Any]:
    """Returns the inputs that both stages have: entries, prompts, and who is asked."""
    return {
        context.stage: [entry.model_dump(mode="json") for entry in section],
        "prompts": {prompt.name: prompt.hash for prompt in prompts},
        "teachers": {name: build_teacher(context.run, name).identity for name in sorted(teachers)},
    }


class AugmentationRun(Generic[Entry]):
    """Makes new questions or traces by one entry of the config, and counts what came of it.

    Attributes:
        splits: Where new records go: `train` and `rejected`.
        teacher: The name of the teacher that is asked.
        totals: Counts for the manifest; the last of them is how many records are new.
        rejected: Why answers were rejected.
        skipped: Why nothing was asked about an old question or trace.
    """

    product: ClassVar[str]  # "questions" or "traces", for the user
    total_names: ClassVar[tuple[str, ...]]

    def __init__(
        self, context: StageContext, entry: Entry, splits: Mapping[str, SplitWriter]
    ) -> None:
        self.context, self.splits = context, splits
        self.entry: Entry = entry
        self.teacher = teacher_of(context, entry)
        self.totals = dict.fromkeys(self.total_names, 0)
        self.rejected: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self._stats: list[GenerationStats] = []

    def finish(self) -> dict[str, Any]:
        """Says what came of the entry, and returns that for the manifest."""
        *_, new = self.totals.values()
        parts = [f"  {self.entry.name}: {new} new {self.product}"]
        parts += [counted("rejected", self.rejected)] if self.rejected else []
        parts += [counted("not asked", self.skipped)] if self.skipped else []
        self.context.say(" · ".join(parts))
        return {
            "make": self.entry.make,
            **self.totals,
            "rejected": dict(self.rejected.most_common()),
            "skipped": dict(self.skipped),
            "counts": [stats.to_dict() for stats in self._stats],
        }

    def ask(
        self,
        prompt: Prompt,
        samples: int,
        verdict: Callable[[Record], Verdict],
        tasks: Iterable[Task],
        total: int,
        emit: Callable[[Task, list[Record]], None],
        vote: Agreement | None = None,
    ) -> None:
        """Asks the entry's teacher, or for a vote the vote's, with progress.

        `verdict` says of an answer whether it can be used, `total` is the number of tasks, and
        `emit` takes a task and its answers.
        """
        self._stats.append(stats := GenerationStats(questions_total=total))
        teacher = (vote and vote.teacher) or self.teacher
        values = vote.prompt.values if vote else self.entry.values
        spec = single_prompt_spec(
            self.context.run,
            [teacher],
            prompt,
            values,
            (vote or self.entry).sampling,
            samples,
            lambda answer: [verdict(answer)],
        )
        section = self.context.run.generate  # without it nobody could say that it is to go on
        spec.alarm = section.alarm_action if section is not None else "warn"
        title = f"{self.context.stage} {self.entry.name} ({prompt.name})"
        ask_all(self.context.run, spec, tasks, emit, stats, title)

    def readable(self, answer: Record, read: Callable[[], object]) -> Verdict:
        """Returns the verdict on an answer: no where `read` raises ValueError."""
        try:
            read()
        except ValueError as error:
            # That it was cut off explains the rest.
            cut = answer.generation is not None and answer.generation.finish_reason == "length"
            return Verdict(self.context.stage, False, f"cut off: {error}" if cut else str(error))
        return Verdict(self.context.stage, True)

    def reject(self, record: Record) -> None:
        """Writes a record that a verdict drops."""
        assert record.rejected_by is not None
        self.rejected[record.rejected_by.kind] += 1
        self.splits["rejected"].write(record)


def to_manifest(forms: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the manifest's part on the entries; with failed requests it is not complete."""
    failed = any(counts["failed"] for form in forms for counts in form["counts"])
    return {"forms": forms, "complete": not failed}


def teacher_of(context: StageContext, entry: Augment | Rewrite) -> str:
    """Returns the teacher of an entry: the first of the config where it names none."""
    return entry.teacher or next(iter(context.run.teachers))
