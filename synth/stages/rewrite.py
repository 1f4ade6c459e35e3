"""The stage `rewrite`: new traces from those that passed the trace filters.

A new trace answers the same question. It stands behind the old ones in the split `train` and goes
through all filters as they do; what cannot be read from the answer is in `rejected`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from synth.config.augment import Rewrite
from synth.core.dataset import read_split, writing
from synth.core.prompts import Prompt
from synth.core.record import Record, Task, Verdict
from synth.stages._augment.form import AugmentationRun, shared_inputs, teacher_of, to_manifest
from synth.stages._augment.tags import one_in_answer
from synth.stages.build_filters import eval_tasks
from synth.stages.context import StageContext


def rewrite_inputs(section: list[Rewrite], context: StageContext) -> dict[str, Any]:
    """Returns traces, entries with their prompts, who is asked, and the filters that choose."""
    prompts = [p for entry in section for p in (entry.prompt, entry.first) if p]
    teachers = {teacher_of(context, entry) for entry in section}
    return {
        "generate": context.folder.content("generate"),
        **shared_inputs(section, context, prompts, teachers),
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

        forms = [_TraceRun(context, e, splits).make(passing, len(passed)) for e in section]
        manifest |= {"inputs": inputs, "passed": len(passed), **to_manifest(forms)}
    return manifest


class _TraceRun(AugmentationRun[Rewrite]):
    """One entry of the section `rewrite` at work."""

    product, total_names = "traces", ("made",)

    def make(self, parents: Callable[[], Iterator[Record]], total: int) -> dict[str, Any]:
        """Asks for the new traces and returns what came of them, for the manifest.

        Where the template wants a critique, that is asked for first. `parents` gives the old
        traces, `total` of them, from the first on at each call.
        """
        entry = self.entry
        critiques: dict[str, str] = {}

        def critique(parent: Record, answer: Record) -> str:
            return one_in_answer(answer, "critique")

        def note(parent: Record, answer: Record) -> None:
            critiques[parent.id] = critique(parent, answer)

        def take(parent: Record, answer: Record) -> None:
            self.splits["train"].write(self._record(parent, answer, *self._trace(parent, answer)))
            self.totals["made"] += 1

        old = (record for record in parents() if self._has_reasoning(record))
        if entry.first is not None:
            self._ask_about(entry.first, old, total, 1, critique, note, {})
            old = (record for record in parents() if record.id in critiques)
            total = len(critiques)
        self._ask_about(entry.prompt, old, total, entry.each, self._trace, take, critiques)
        return self.finish()

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
        in_flight: dict[str, Record] = {}

        def tasks() -> Iterator[Task]:
            for parent in parents:
                variables = {"reasoning": parent.reasoning, "answer": parent.answer}
                if parent.id in critiques:
                    variables["critique"] = critiques[parent.id]
                task, id = parent.task, f"{parent.id}-{self.entry.name}"
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

        self.ask(prompt, samples, verdict, tasks(), total, emit)

    def _has_reasoning(self, record: Record) -> bool:
        if not record.reasoning:
            self.skipped["no reasoning"] += 1
        return bool(record.reasoning)

    def _trace(self, parent: Record, answer: Record) -> tuple[str, str]:
        """Returns the new reasoning and answer; raises ValueError where none will do."""
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
