"""The stage `augment`: new questions from old ones, each with where it came from.

A new question counts when it can be read from the answer, is no old one, no other new one and none
of the evaluation, passes the question filters, and has a reference answer where the config wants
one by a vote. Every other goes to the split `rejected` with its reason. All answers come from the
response store, so a rerun buys nothing again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from synth.config.augment import Agreement, Augment
from synth.config.generate import Sampling
from synth.config.run import Run
from synth.core.dataset import SplitWriter, read_split, writing
from synth.core.prompts import Prompt, load_prompt
from synth.core.question_text import question_key
from synth.core.record import Record, Task, Verdict, digest
from synth.core.run_folder import Folder
from synth.generate.stats import GenerationStats
from synth.stages._augment.seeds import Seed, draws, stands_in
from synth.stages._augment.tags import in_answer, unreadable
from synth.stages.build_filters import build_chain_of, filters_at
from synth.stages.build_teachers import ask_all, identities, single_ask
from synth.stages.filter import Say

if TYPE_CHECKING:
    from filters.base import Decision
    from filters.engine.chain import Chain

NAME = "augment"  # of this stage's own verdicts


def augment_inputs(run: Run, folder: Folder) -> dict[str, Any]:
    """Questions, forms with their prompts, who is asked, and what new questions have to pass."""
    assert run.augment is not None
    prompts = [entry.prompt for entry in run.augment]
    asked = {_teacher(run, entry) for entry in run.augment if entry.asks}
    for entry in run.augment:
        if isinstance(entry.answer, Agreement):
            prompts.append(load_prompt(entry.answer.prompt.template))
            asked.add(_voter(run, entry))
    return {
        "tasks": folder.content("tasks"),
        "augment": [entry.model_dump(mode="json") for entry in run.augment],
        "prompts": {prompt.name: prompt.hash for prompt in prompts},
        "teachers": identities(run, asked),
        "filters": filters_at(run, {"question"}),
        "seed": run.seed,
    }


def augment_questions(run: Run, folder: Folder, inputs: dict[str, Any], say: Say) -> dict[str, Any]:
    """Makes the new questions and writes them behind the old ones."""
    assert run.augment is not None
    old = [record.task for record in read_split(folder.stage("tasks"), "train")]
    evaluation = [record.task for record in read_split(folder.stage("tasks"), "eval")]
    with (
        build_chain_of(run, evaluation, levels={"question"}) as chain,
        writing(folder.stage("augment"), ("train", "rejected")) as (splits, manifest),
    ):
        for task in old:
            splits["train"].write(Record(task.id, task, [], None, ""))
        gate = _NoveltyCheck(old, evaluation, chain)
        forms = []
        for index, entry in enumerate(run.augment):
            form = _Form(run, index, entry, gate, splits)
            form.make(old)
            forms.append(form.figures())
            say(f"  {form.line()}")
        failed = any(counts["failed"] for form in forms for counts in form["counts"])
        manifest |= {"inputs": inputs, "forms": forms, "complete": not failed}
    return manifest


class _NoveltyCheck:
    """Says of a question whether it is new; what it let pass is old from then on."""

    def __init__(self, old: Sequence[Task], evaluation: Sequence[Task], chain: Chain) -> None:
        self._evaluation = {question_key(task.question): task.id for task in evaluation}
        self._seen = {question_key(task.question): task.id for task in old}
        self._known = [*old, *evaluation]
        self._chain = chain
        self._near: dict[float, Callable[[Record], Decision]] = {}

    def verdicts(self, record: Record, near: float | None) -> list[Verdict]:
        """The verdicts on a new question, up to the first that drops it."""
        key = question_key(record.task.question)
        if name := self._evaluation.get(key):
            return [Verdict(NAME, False, f"in the evaluation: as {name}")]
        if name := self._seen.get(key):
            return [Verdict(NAME, False, f"duplicate: of {name}")]
        verdicts = self._chain.check_question(record.task)
        if near is not None and all(verdict.keep for verdict in verdicts):
            found = self._nearness(near)(record)
            verdicts.append(Verdict(NAME, found.keep, found.reason, found.score))
        if all(verdict.keep for verdict in verdicts):
            self._seen[key] = record.id
            self._known.append(record.task)
        return verdicts

    def _nearness(self, threshold: float) -> Callable[[Record], Decision]:
        """The near-duplicate check of a threshold, which has seen all that is known so far."""
        from filters import near_dedup

        if threshold not in self._near:
            config = near_dedup.Config(on="question", threshold=threshold)
            self._near[threshold] = near_dedup.growing(config)
            for task in self._known:
                self._near[threshold](Record(task.id, task, [], None, ""))
        return self._near[threshold]


class _Form:
    """One entry of the config at work."""

    def __init__(
        self,
        run: Run,
        index: int,
        entry: Augment,
        gate: _NoveltyCheck,
        splits: Mapping[str, SplitWriter],
    ) -> None:
        self._run, self._index, self._entry = run, index, entry
        self._gate, self._splits = gate, splits
        self._prompt = entry.prompt
        self._kept: list[Task] = []
        self._rejected: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._starts = 0
        self._counts: list[GenerationStats] = []

    def make(self, old: Sequence[Task]) -> None:
        """All rounds: each but the first starts from what the round before it made."""
        from filters.answers.voting import bare_reference

        for number in range(self._entry.rounds):
            chance = random.Random(f"{self._run.seed}:{self._index}:{self._entry.make}:{number}")
            begun = list(draws(self._entry, old, chance, bare_reference, self._skipped))
            self._starts += len(begun)
            before = len(self._kept)
            passed = [record for record in self._new(begun, number) if self._passes(record)]
            if isinstance(self._entry.answer, Agreement):
                self._vote(self._entry.answer, passed)
            else:
                for record in passed:
                    self._keep(record)
            old = self._kept[before:]

    def figures(self) -> dict[str, Any]:
        """What came of it, for the manifest."""
        return {
            "make": self._entry.make,
            "starts": self._starts,
            "kept": len(self._kept),
            "rejected": dict(self._rejected.most_common()),
            "skipped": dict(self._skipped),
            "counts": [counts.to_dict() for counts in self._counts],
        }

    def line(self) -> str:
        """What came of it, for the user."""
        parts = [f"{self._entry.name}: {len(self._kept)} new questions"]
        for title, counter in (("rejected", self._rejected), ("not asked", self._skipped)):
            if counter:
                why = ", ".join(f"{reason} {n}" for reason, n in counter.most_common(4))
                parts.append(f"{title} {counter.total()} ({why})")
        return " · ".join(parts)

    def _new(self, begun: list[Seed], number: int) -> list[Record]:
        """The new questions of a round; one that cannot be read has its verdict already."""
        entry = self._entry
        if not entry.asks:
            rendered = [self._prompt.messages(draw.asked, entry.values) for draw in begun]
            return [
                self._record(draw, number, messages[-1]["content"])
                for draw, messages in zip(begun, rendered, strict=True)
            ]
        at_once = "count" in self._prompt.variables or entry.masks
        by_id = {draw.asked.id: draw for draw in begun}
        made: list[Record] = []
        self._ask(
            _teacher(self._run, entry), self._prompt, entry.values, entry.sampling,
            samples=1 if at_once else entry.each,
            check=lambda answer: [_readable(answer, by_id[answer.task.id])],
            tasks=[draw.asked for draw in begun],
            emit=lambda asked, answers: made.extend(
                new for answer in answers for new in self._read(by_id[asked.id], number, answer)
            ),
        )  # fmt: skip
        return made

    def _read(self, draw: Seed, number: int, answer: Record) -> Iterable[Record]:
        """The new questions in an answer: as many as were asked for, and no more of them pass."""
        verdict = _readable(answer, draw)
        questions = in_answer(answer, "question") if verdict.keep else [""]
        for place, question in enumerate(questions):
            record = self._record(draw, number, question, answer, place)
            if not verdict.keep:
                record.verdicts = [verdict]
            elif place >= (self._entry.each if "count" in self._prompt.variables else 1):
                record.verdicts = [Verdict(NAME, False, "more than were asked for")]
            yield record

    def _record(
        self, draw: Seed, number: int, question: str, answer: Record | None = None, place: int = 0
    ) -> Record:
        entry, generation = self._entry, answer.generation if answer else None
        kept = draw.parent if entry.reference == "keep" else None
        known = draw.number if entry.reference == "masked" else None
        sample = generation.sample if generation else 0
        unique = [self._index, number, draw.asked.id, sample, place, question]
        lineage = {
            "form": entry.name,
            "from": draw.parents,
            "round": number,
            "teacher": generation.teacher if generation else None,
            "template": self._prompt.name,
            "template_hash": self._prompt.hash,
            **draw.drawn,
        }
        task = Task(
            id=f"{entry.name}-{digest(unique)[:12]}",
            question=question,
            answer=kept.answer if kept else known,
            source=entry.name,
            metadata={**(kept.metadata if kept else {}), NAME: lineage},
        )
        record = Record(task.id, task, [], None, "", generation)
        if answer is not None:
            record.messages, record.reasoning = answer.messages, answer.reasoning
            record.answer = answer.answer
        return record

    def _vote(self, wanted: Agreement, records: list[Record]) -> None:
        """Gives each question the answer that most answers agree on; without one it is rejected."""
        from filters.answers.voting import final_answer, tally

        by_id = {record.id: record for record in records}
        voter, prompt = _voter(self._run, self._entry), load_prompt(wanted.prompt.template)

        def emit(task: Task, answers: list[Record]) -> None:
            record = by_id[task.id]
            ranked = tally([answer.answer for answer in answers])
            votes = ranked[0][1] if ranked else 0
            tie = len(ranked) > 1 and ranked[1][1] == votes
            if tie or votes < wanted.agree:
                reason = f"no agreement: {votes} of {len(answers)}"
                record.verdicts.append(Verdict(NAME, False, reason, float(votes)))
                self._reject(record)
                return
            task.answer = ranked[0][0]
            task.metadata[NAME] |= {
                "votes": votes, "of": len(answers), "voter": voter, "prompt": prompt.name,
            }  # fmt: skip
            self._keep(record)

        self._ask(
            voter, prompt, wanted.prompt.values, wanted.sampling,
            samples=wanted.samples,
            check=lambda answer: [
                Verdict(NAME, final_answer(answer.answer) is not None, "no answer found")
            ],
            tasks=[record.task for record in records],
            emit=emit,
        )  # fmt: skip

    def _ask(
        self,
        teacher: str,
        prompt: Prompt,
        values: Mapping[str, Any],
        sampling: Sampling,
        samples: int,
        check: Callable[[Record], list[Verdict]],
        tasks: list[Task],
        emit: Callable[[Task, list[Record]], None],
    ) -> None:
        self._counts.append(counts := GenerationStats(questions_total=len(tasks)))
        ask = single_ask(self._run, [teacher], prompt, values, sampling, samples, check)
        ask_all(self._run, ask, tasks, emit, counts, f"augment {self._entry.name} ({prompt.name})")

    def _passes(self, record: Record) -> bool:
        record.verdicts = record.verdicts or self._gate.verdicts(record, self._entry.nearness)
        if record.rejected_by is not None:
            self._reject(record)
        return record.rejected_by is None

    def _keep(self, record: Record) -> None:
        self._kept.append(record.task)
        self._splits["train"].write(record)

    def _reject(self, record: Record) -> None:
        assert record.rejected_by is not None
        self._rejected[record.rejected_by.kind] += 1
        self._splits["rejected"].write(record)


def _readable(answer: Record, draw: Seed) -> Verdict:
    """Whether the new questions can be read from an answer without guessing."""
    try:
        questions = in_answer(answer, "question")
    except ValueError as error:
        return Verdict(NAME, False, unreadable(answer, error))
    if draw.unknown and not all(stands_in(draw.unknown, question) for question in questions):
        return Verdict(NAME, False, f"the unknown is lost: {draw.unknown}")
    return Verdict(NAME, True)


def _teacher(run: Run, entry: Augment) -> str:
    return entry.teacher or next(iter(run.teachers))


def _voter(run: Run, entry: Augment) -> str:
    assert isinstance(entry.answer, Agreement)
    return entry.answer.teacher or _teacher(run, entry)
