"""The stage `rewrite`: new traces from those that passed the trace filters.

A new trace answers the same question. It stands behind the old ones in the split `train` and goes
through all filters as they do; what cannot be read from the answer is in `rejected`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from synth.config.augment import Rewrite
from synth.core.dataset import SplitWriter, read_split, writing
from synth.core.prompts import Prompt
from synth.core.record import Record, Task, Verdict
from synth.stages._augment.form import AugmentationRun, finish, teacher_of
from synth.stages._augment.tags import one_in_answer
from synth.stages.build_filters import eval_tasks
from synth.stages.build_teachers import teacher_identities
from synth.stages.context import StageContext


def rewrite_inputs(section: list[Rewrite], context: StageContext) -> dict[str, Any]:
    """Traces, forms with their prompts, who is asked, and the filters that choose the traces."""
    prompts = [p for entry in section for p in (entry.prompt, entry.first) if p]
    teachers = {teacher_of(context, entry) for entry in section}
    return {
        "generate": context.folder.content("generate"),
        "rewrite": [entry.model_dump(mode="json") for entry in section],
        "prompts": {prompt.name: prompt.hash for prompt in prompts},
        "teachers": teacher_identities(context.run, teachers),
        "filters": context.filters.at("question", "trace").options,
        "eval": context.folder.content("tasks"),
    }


def rewrite_traces(
    section: list[Rewrite], context: StageContext, inputs: dict[str, Any]
) -> dict[str, Any]:
    """Writes the old traces and, behind them, what was made of those that pass."""
    generated, evaluation = context.folder.stage("generate"), eval_tasks(context.folder)
    with writing(context.path, ("train", "rejected")) as (splits, manifest):
        passed: set[str] = set()
        with context.filters.chain("question", "trace", eval_tasks=evaluation) as chain:
            threads = context.filters.check_threads
            for record in chain.apply(read_split(generated, "train"), threads):
                if record.rejected_by is None:
                    passed.add(record.id)
                record.verdicts = []  # the filter stage has the last word
                splits["train"].write(record)

        def passing() -> Iterator[Record]:
            return (r for r in read_split(generated, "train") if r.id in passed)

        def runs() -> Iterator[_TraceRun]:
            for entry in section:
                run = _TraceRun(context, entry, splits)
                run.make(passing, len(passed))
                yield run

        manifest |= {"inputs": inputs, "passed": len(passed), **finish(runs(), context)}
    return manifest


class _TraceRun(AugmentationRun[Rewrite]):
    """One entry of the section `rewrite` at work."""

    product = "traces"

    def __init__(
        self, context: StageContext, entry: Rewrite, splits: Mapping[str, SplitWriter]
    ) -> None:
        super().__init__(context, entry, splits)
        self._new = 0

    def totals(self) -> dict[str, int]:
        """How many traces are new."""
        return {"made": self._new}

    def make(self, parents: Callable[[], Iterator[Record]], total: int) -> None:
        """Asks for the new traces; where the template wants a critique, for that first.

        Args:
            parents: Gives the old traces, from the first on at each call.
            total: How many they are.
        """
        entry = self.entry
        critiques: dict[str, str] = {}

        def note(parent: Record, answer: Record) -> None:
            critiques[parent.id] = _critique(parent, answer)

        def take(parent: Record, answer: Record) -> None:
            self.splits["train"].write(self._record(parent, answer, *self._trace(parent, answer)))
            self._new += 1

        old = (record for record in parents() if self._has_reasoning(record))
        if entry.first is not None:
            self._ask_about(entry.first, old, total, 1, _critique, note, {})
            old = (record for record in parents() if record.id in critiques)
            total = len(critiques)
        self._ask_about(entry.prompt, old, total, entry.each, self._trace, take, critiques)

    def _ask_about(
        self,
        prompt: Prompt,
        parents: Iterator[Record],
        total: int,
        samples: int,
        read: Callable[[Record, Record], Any],
        take: Callable[[Record, Record], None],
        critiques: Mapping[str, str],
    ) -> None:
        """Asks about each old trace; what `read` raises no ValueError on is taken."""
        entry = self.entry
        in_flight: dict[str, Record] = {}

        def tasks() -> Iterator[Task]:
            for parent in parents:
                variables = {"reasoning": parent.reasoning, "answer": parent.answer}
                if parent.id in critiques:
                    variables["critique"] = critiques[parent.id]
                task, id = parent.task, f"{parent.id}-{entry.name}"
                in_flight[id] = parent
                yield Task(id, task.question, task.answer, task.source, task.metadata | variables)

        def verdict(answer: Record) -> Verdict:
            parent = in_flight[answer.task.id]
            return self.readable(answer, lambda: read(parent, answer))

        def emit(task: Task, answers: list[Record]) -> None:
            parent = in_flight[task.id]
            for answer in answers:
                judged = verdict(answer)
                if judged.keep:
                    take(parent, answer)
                    continue
                record = self._record(parent, answer, answer.reasoning, answer.answer)
                record.verdicts = [judged]
                self.reject(record)
            del in_flight[task.id]

        self.ask(
            teacher_of(self.context, entry), prompt, entry.values, entry.sampling, samples,
            verdict, tasks(), total, emit,
        )  # fmt: skip

    def _has_reasoning(self, record: Record) -> bool:
        if not record.reasoning:
            self.skipped["no reasoning"] += 1
        return bool(record.reasoning)

    def _trace(self, parent: Record, answer: Record) -> tuple[str, str]:
        """The new reasoning and answer. Raises ValueError where there is none that will do."""
        reasoning = one_in_answer(answer, "reasoning")
        final = one_in_answer(answer, "answer")
        before, after = len(parent.reasoning or ""), len(reasoning)
        wrong = {"shorten": after >= before, "lengthen": after <= before}
        if wrong.get(self.entry.name, False):
            comparative = "shorter" if self.entry.name == "shorten" else "longer"
            raise ValueError(f"not {comparative}: {after} characters, the old one has {before}")
        return reasoning, final

    def _record(self, parent: Record, answer: Record, reasoning: str | None, final: str) -> Record:
        assert answer.generation is not None
        sample = answer.generation.sample
        return Record(
            id=f"{answer.task.id}-{sample}" if sample else answer.task.id,
            task=parent.task,
            messages=answer.messages,
            reasoning=reasoning,
            answer=final,
            generation=replace(answer.generation, parent=parent.id),
        )


def _critique(parent: Record, answer: Record) -> str:
    return one_in_answer(answer, "critique")
