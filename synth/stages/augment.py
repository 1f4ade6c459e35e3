"""The stage `augment`: new questions from old ones, each with where it came from.

A new question counts when it can be read from the answer, is no old one, no other new one and none
of the evaluation, passes the question filters, and has a reference answer where the config wants
one by a vote. Every other goes to the split `rejected` with its reason. All answers come from the
response store, so a rerun buys nothing again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from synth.config.augment import Agreement, Augment
from synth.core.dataset import SplitWriter, read_split, writing
from synth.core.prompts import load_prompt
from synth.core.record import Record, Task, Verdict, digest
from synth.core.text.question_text import question_key
from synth.stages._augment.form import AugmentationRun, shared_inputs, teacher_of, to_manifest
from synth.stages._augment.seeds import Seed, contains_unknown, draw_seeds
from synth.stages._augment.tags import in_answer
from synth.stages.build_filters import eval_tasks
from synth.stages.context import StageContext
from synth.stages.tasks import unanswered

if TYPE_CHECKING:
    from filters.base import Decision
    from filters.engine.chain import Chain

NAME = "augment"  # of this stage's own verdicts


def augment_inputs(section: list[Augment], context: StageContext) -> dict[str, Any]:
    """Returns questions, entries with their prompts, who is asked, and the question filters."""
    prompts = [entry.prompt for entry in section]
    teachers = {teacher_of(context, entry) for entry in section if entry.asks}
    for entry in section:
        if isinstance(entry.answer, Agreement):
            prompts.append(load_prompt(entry.answer.prompt.template))
            teachers.add(entry.answer.teacher or teacher_of(context, entry))
    return {
        "tasks": context.folder.content("tasks"),
        **shared_inputs(section, context, prompts, teachers),
        "filters": context.filters.at("question").options,
        "seed": context.seed,
    }


def augment_questions(
    section: list[Augment], context: StageContext, inputs: dict[str, Any]
) -> dict[str, Any]:
    """Makes the new questions and writes them behind the old ones."""
    old = [record.task for record in read_split(context.folder.stage("tasks"), "train")]
    evaluation = eval_tasks(context.folder)
    with (
        context.filters.chain("question", eval_tasks=evaluation) as chain,
        writing(context.path, ("train", "rejected")) as (splits, manifest),
    ):
        for task in old:
            splits["train"].write(unanswered(task))
        novelty = _NoveltyCheck(old, evaluation, chain)
        forms = [
            _QuestionRun(context, entry, splits, index, novelty).make(old)
            for index, entry in enumerate(section)
        ]
        manifest |= {"inputs": inputs, **to_manifest(forms)}
    return manifest


class _NoveltyCheck:
    """Says of a question whether it is new; what it let pass is old from then on."""

    def __init__(self, old: Sequence[Task], evaluation: Sequence[Task], chain: Chain) -> None:
        self._evaluation = {question_key(task.question): task.id for task in evaluation}
        self._seen = {question_key(task.question): task.id for task in old}
        self._tasks = [*old, *evaluation]
        self._chain = chain
        self._near: dict[float, Callable[[Record], Decision]] = {}

    def verdicts(self, record: Record, threshold: float | None) -> list[Verdict]:
        """Returns the verdicts on a new question, up to the first that drops it.

        From the similarity `threshold` on it is a near duplicate; None looks for none.
        """
        key = question_key(record.task.question)
        if name := self._evaluation.get(key):
            return [Verdict(NAME, False, f"in the evaluation: as {name}")]
        if name := self._seen.get(key):
            return [Verdict(NAME, False, f"duplicate: of {name}")]
        verdicts = self._chain.check_question(record.task)
        if threshold is not None and all(verdict.keep for verdict in verdicts):
            decision = self._near_duplicates(threshold)(record)
            verdicts.append(Verdict(NAME, decision.keep, decision.reason, decision.score))
        if all(verdict.keep for verdict in verdicts):
            self._seen[key] = record.id
            self._tasks.append(record.task)
        return verdicts

    def _near_duplicates(self, threshold: float) -> Callable[[Record], Decision]:
        """Returns the near-duplicate check of a threshold, which has seen all questions so far."""
        from filters import near_dedup

        if threshold not in self._near:
            config = near_dedup.Config(on="question", threshold=threshold)
            self._near[threshold] = near_dedup.growing(config)
            for task in self._tasks:
                self._near[threshold](unanswered(task))
        return self._near[threshold]


class _QuestionRun(AugmentationRun[Augment]):
    """One entry of the section `augment` at work; `index` is its place in the section."""

    product, total_names = "questions", ("starts", "kept")

    def __init__(
        self,
        context: StageContext,
        entry: Augment,
        splits: Mapping[str, SplitWriter],
        index: int,
        novelty: _NoveltyCheck,
    ) -> None:
        super().__init__(context, entry, splits)
        self._index, self._novelty = index, novelty
        self._prompt = entry.prompt
        self._kept: list[Task] = []

    def make(self, old: Sequence[Task]) -> dict[str, Any]:
        """Runs all rounds and returns what came of them, for the manifest.

        Each round but the first starts from what the round before it made.
        """
        from filters.answers.boxed import bare_reference

        entry = self.entry
        for round_ in range(entry.rounds):
            rng = random.Random(f"{self.context.seed}:{self._index}:{entry.make}:{round_}")
            seeds = list(draw_seeds(entry, old, rng, bare_reference, self.skipped))
            self.totals["starts"] += len(seeds)
            self._kept = []
            passed = [record for record in self._new(seeds, round_) if self._passes(record)]
            if isinstance(entry.answer, Agreement):
                self._vote(entry.answer, passed)
            else:
                for record in passed:
                    self._keep(record)
            old = self._kept
        return self.finish()

    def _new(self, seeds: list[Seed], round_: int) -> list[Record]:
        """Returns the new questions of a round; one that cannot be read has its verdict already."""
        entry, prompt = self.entry, self._prompt
        if not entry.asks:
            return [
                self._record(seed, round_, prompt.messages(seed.asked, entry.values)[-1]["content"])
                for seed in seeds
            ]
        all_in_one_answer = "count" in prompt.variables or entry.masks
        by_id = {seed.asked.id: seed for seed in seeds}
        records: list[Record] = []
        self.ask(
            prompt,
            samples=1 if all_in_one_answer else entry.each,
            verdict=lambda answer: self._verdict(answer, by_id[answer.task.id]),
            tasks=(seed.asked for seed in seeds),
            total=len(seeds),
            emit=lambda task, answers: records.extend(
                new for answer in answers for new in self._read(by_id[task.id], round_, answer)
            ),
        )
        return records

    def _verdict(self, answer: Record, seed: Seed) -> Verdict:
        """Says whether the new questions can be read from an answer without guessing."""
        verdict = self.readable(answer, lambda: in_answer(answer, "question"))
        if verdict.keep and seed.unknown:
            questions = in_answer(answer, "question")
            if not all(contains_unknown(seed.unknown, question) for question in questions):
                return Verdict(NAME, False, f"the unknown is lost: {seed.unknown}")
        return verdict

    def _read(self, seed: Seed, round_: int, answer: Record) -> Iterable[Record]:
        """Yields the new questions in an answer; no more of them pass than were asked for."""
        verdict = self._verdict(answer, seed)
        questions = in_answer(answer, "question") if verdict.keep else [""]
        wanted = self.entry.each if "count" in self._prompt.variables else 1
        for index, question in enumerate(questions):
            record = self._record(seed, round_, question, answer, index)
            if not verdict.keep:
                record.verdicts = [verdict]
            elif index >= wanted:
                record.verdicts = [Verdict(NAME, False, "more than were asked for")]
            yield record

    def _record(
        self, seed: Seed, round_: int, question: str, answer: Record | None = None, index: int = 0
    ) -> Record:
        entry, generation = self.entry, answer.generation if answer else None
        parent = seed.parent if entry.reference == "keep" else None
        masked_number = seed.number if entry.reference == "masked" else None
        sample = generation.sample if generation else 0
        unique = [self._index, round_, seed.asked.id, sample, index, question]
        lineage = {
            "form": entry.name,
            "from": seed.parents,
            "round": round_,
            "teacher": generation.teacher if generation else None,
            "template": self._prompt.name,
            "template_hash": self._prompt.hash,
            **seed.drawn,
        }
        task = Task(
            id=f"{entry.name}-{digest(unique)[:12]}",
            question=question,
            answer=parent.answer if parent else masked_number,
            source=entry.name,
            metadata={**(parent.metadata if parent else {}), NAME: lineage},
        )
        return replace(answer or unanswered(task), id=task.id, task=task, verdicts=[])

    def _vote(self, agreement: Agreement, records: list[Record]) -> None:
        """Gives each question the answer that most answers agree on, or rejects it."""
        from filters.answers.boxed import final_answer
        from filters.answers.voting import tally

        by_id = {record.id: record for record in records}
        voter = agreement.teacher or self.teacher
        prompt = load_prompt(agreement.prompt.template)

        def emit(task: Task, answers: list[Record]) -> None:
            record = by_id[task.id]
            ranked = tally([answer.answer for answer in answers])
            votes = ranked[0][1] if ranked else 0
            tie = len(ranked) > 1 and ranked[1][1] == votes
            if tie or votes < agreement.agree:
                reason = f"no agreement: {votes} of {len(answers)}"
                record.verdicts.append(Verdict(NAME, False, reason, float(votes)))
                self.reject(record)
                return
            task.answer = ranked[0][0]
            task.metadata[NAME] |= {
                "votes": votes, "of": len(answers), "voter": voter, "prompt": prompt.name,
            }  # fmt: skip
            self._keep(record)

        self.ask(
            prompt,
            samples=agreement.samples,
            verdict=lambda answer: Verdict(
                NAME, final_answer(answer.answer) is not None, "no answer found"
            ),
            tasks=(record.task for record in records),
            total=len(records),
            emit=emit,
            vote=agreement,
        )

    def _passes(self, record: Record) -> bool:
        record.verdicts = record.verdicts or self._novelty.verdicts(record, self.entry.nearness)
        if record.rejected_by is not None:
            self.reject(record)
        return record.rejected_by is None

    def _keep(self, record: Record) -> None:
        self._kept.append(record.task)
        self.totals["kept"] += 1
        self.splits["train"].write(record)
