"""The stage `rewrite`: new traces from those that passed the trace filters.

A new trace answers the same question. It stands behind the old ones in the split `train` and goes
through all filters as they do; what cannot be read from the answer is in `rejected`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from synth.config.augment import Rewrite
from synth.config.run import Run
from synth.core.dataset import SplitWriter, read_split, writing
from synth.core.prompts import Prompt
from synth.core.record import Record, Task, Verdict
from synth.core.run_folder import Folder
from synth.generate.stats import GenerationStats
from synth.stages._augment.tags import one_in_answer, unreadable
from synth.stages.build_filters import build_chain_of, check_threads, filters_at
from synth.stages.build_teachers import ask_all, identities, single_ask
from synth.stages.filter import Say

NAME = "rewrite"  # of this stage's own verdicts


def rewrite_inputs(run: Run, folder: Folder) -> dict[str, Any]:
    """Traces, forms with their prompts, who is asked, and the filters that choose the traces."""
    assert run.rewrite is not None
    prompts = [p for entry in run.rewrite for p in (entry.prompt, entry.first) if p]
    return {
        "generate": folder.content("generate"),
        "rewrite": [entry.model_dump(mode="json") for entry in run.rewrite],
        "prompts": {prompt.name: prompt.hash for prompt in prompts},
        "teachers": identities(run, {_teacher(run, entry) for entry in run.rewrite}),
        "filters": filters_at(run, {"question", "trace"}),
        "eval": folder.content("tasks"),
    }


def rewrite_traces(run: Run, folder: Folder, inputs: dict[str, Any], say: Say) -> dict[str, Any]:
    """Writes the old traces and, behind them, what was made of those that pass."""
    assert run.rewrite is not None
    generated = folder.stage("generate")
    evaluation = [record.task for record in read_split(folder.stage("tasks"), "eval")]
    with writing(folder.stage("rewrite"), ("train", "rejected")) as (splits, manifest):
        passed: set[str] = set()
        with build_chain_of(run, evaluation, levels={"question", "trace"}) as chain:
            for record in chain.apply(read_split(generated, "train"), check_threads(run)):
                if record.rejected_by is None:
                    passed.add(record.id)
                record.verdicts = []  # the filter stage has the last word
                splits["train"].write(record)

        def passing() -> Iterator[Record]:
            return (r for r in read_split(generated, "train") if r.id in passed)

        forms = []
        for entry in run.rewrite:
            form = _Form(run, entry, splits)
            form.make(passing, len(passed))
            forms.append(form.figures())
            say(f"  {form.line()}")
        failed = any(counts["failed"] for form in forms for counts in form["counts"])
        manifest |= {
            "inputs": inputs,
            "passed": len(passed),
            "forms": forms,
            "complete": not failed,
        }
    return manifest


class _Form:
    """One entry of the config at work."""

    def __init__(self, run: Run, entry: Rewrite, splits: Mapping[str, SplitWriter]) -> None:
        self._run, self._entry, self._splits = run, entry, splits
        self._made = 0
        self._rejected: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._counts: list[GenerationStats] = []

    def make(self, parents: Callable[[], Iterator[Record]], number: int) -> None:
        """Asks for the new traces; where the template wants a critique, for that first.

        Args:
            parents: Gives the old traces, from the first on at each call.
            number: How many they are.
        """
        entry = self._entry
        critiques: dict[str, str] = {}

        def note(parent: Record, answer: Record) -> None:
            critiques[parent.id] = _critique(parent, answer)

        def take(parent: Record, answer: Record) -> None:
            self._splits["train"].write(self._record(parent, answer, *self._trace(parent, answer)))
            self._made += 1

        old = (record for record in parents() if self._has_reasoning(record))
        if entry.first is None:
            self._ask(entry.prompt, old, number, entry.each, self._trace, take, {})
            return
        self._ask(entry.first, old, number, 1, _critique, note, {})
        criticised = (record for record in parents() if record.id in critiques)
        self._ask(
            entry.prompt, criticised, len(critiques), entry.each, self._trace, take, critiques
        )

    def figures(self) -> dict[str, Any]:
        """What came of it, for the manifest."""
        return {
            "make": self._entry.make,
            "made": self._made,
            "rejected": dict(self._rejected.most_common()),
            "skipped": dict(self._skipped),
            "counts": [counts.to_dict() for counts in self._counts],
        }

    def line(self) -> str:
        """What came of it, for the user."""
        parts = [f"{self._entry.name}: {self._made} new traces"]
        for title, counter in (("rejected", self._rejected), ("not asked", self._skipped)):
            if counter:
                why = ", ".join(f"{reason} {n}" for reason, n in counter.most_common(4))
                parts.append(f"{title} {counter.total()} ({why})")
        return " · ".join(parts)

    def _ask(
        self,
        prompt: Prompt,
        parents: Iterator[Record],
        number: int,
        samples: int,
        read: Callable[[Record, Record], Any],
        take: Callable[[Record, Record], None],
        critiques: Mapping[str, str],
    ) -> None:
        """Asks about each old trace; what `read` raises no ValueError on is taken."""
        entry, counts = self._entry, GenerationStats(questions_total=number)
        self._counts.append(counts)
        under_way: dict[str, Record] = {}

        def asked() -> Iterator[Task]:
            for parent in parents:
                own = {"reasoning": parent.reasoning, "answer": parent.answer}
                if parent.id in critiques:
                    own["critique"] = critiques[parent.id]
                task, id = parent.task, f"{parent.id}-{entry.name}"
                under_way[id] = parent
                yield Task(id, task.question, task.answer, task.source, task.metadata | own)

        def verdict(answer: Record) -> Verdict:
            try:
                read(under_way[answer.task.id], answer)
            except ValueError as error:
                return Verdict(NAME, False, unreadable(answer, error))
            return Verdict(NAME, True)

        def emit(task: Task, answers: list[Record]) -> None:
            for answer in answers:
                parent, found = under_way[task.id], verdict(answer)
                if found.keep:
                    take(parent, answer)
                else:
                    record = self._record(parent, answer, answer.reasoning, answer.answer)
                    record.verdicts = [found]
                    self._rejected[found.kind] += 1
                    self._splits["rejected"].write(record)
            del under_way[task.id]

        ask = single_ask(
            self._run, [_teacher(self._run, entry)], prompt, entry.values, entry.sampling, samples,
            lambda answer: [verdict(answer)],
        )  # fmt: skip
        ask_all(self._run, ask, asked(), emit, counts, f"rewrite {entry.name} ({prompt.name})")

    def _has_reasoning(self, record: Record) -> bool:
        if not record.reasoning:
            self._skipped["no reasoning"] += 1
        return bool(record.reasoning)

    def _trace(self, parent: Record, answer: Record) -> tuple[str, str]:
        """The new reasoning and answer. Raises ValueError where there is none that will do."""
        reasoning = one_in_answer(answer, "reasoning")
        final = one_in_answer(answer, "answer")
        before, after = len(parent.reasoning or ""), len(reasoning)
        wrong = {"shorten": after >= before, "lengthen": after <= before}
        if wrong.get(self._entry.name, False):
            comparative = "shorter" if self._entry.name == "shorten" else "longer"
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


def _teacher(run: Run, entry: Rewrite) -> str:
    return entry.teacher or next(iter(run.teachers))
