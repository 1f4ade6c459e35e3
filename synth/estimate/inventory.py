"""What a run's questions have in the response store already, and what its answers were like."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from synth.config.run import Run
from synth.core.errors import UserError
from synth.core.prompts import load_prompt
from synth.core.record import Message, Request, Task, digest
from synth.generate.runner import generate
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.stages import build_teachers as run_teachers
from synth.stages.build_filters import FilterSet
from synth.stages.generate import generation_spec
from synth.store import usage as ledger
from synth.store.keys import request_key
from synth.store.responses import ResponseStore, Stored
from synth.teachers.base import RequestRejected, Teacher

COUNTED = ("calls", "prompt_tokens", "completion_tokens", "bytes", "latency")
RENDERED = 500  # prompts whose length is taken
KEPT = 2000  # stored answers that a figure is measured on


@dataclass
class Question:
    """A question, and what the store has of it."""

    task: Task
    prompt: str  # digest of its messages
    # Teacher, key and figures of every stored answer to this prompt.
    stored: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    # Of these, what the run would use: by teacher, counted as in `COUNTED`.
    has: dict[str, Counter[str]] = field(default_factory=dict)


class StoreInventory:
    """The questions of a run beside what the store holds.

    Attributes:
        questions: All of them, in random order; see `shuffled`.
        rendered: The messages of some of them, drawn at random.
        history: Stored answers of each teacher to prompts of this template, the newest first.
        notes: What is to be said of how this was found.
    """

    def __init__(self, run: Run, tasks: Sequence[Task]) -> None:
        assert run.generate is not None
        self.notes: list[str] = []
        self._run, self._generate, self._tasks = run, run.generate, tasks
        self._identities = self._known_identities()
        prompt, values = load_prompt(run.generate.prompt.template), run.generate.prompt.values
        self.questions: list[Question] = []
        self.rendered: list[tuple[Task, list[Message]]] = []
        drawn = set(random.Random(run.seed).sample(range(len(tasks)), min(RENDERED, len(tasks))))
        for i, task in enumerate(shuffled(tasks, run.seed)):
            messages = prompt.messages(task, values)
            self.questions.append(Question(task, digest(messages)))
            if i in drawn:
                self.rendered.append((task, messages))
        self.history: dict[str, list[ledger.StoredResponse]] = {name: [] for name in self.names}
        if self._identities:
            self._read_store()

    @property
    def names(self) -> list[str]:
        """Names of the teachers that answer, in the order of the config."""
        return list(self._generate.teachers or self._run.teachers)

    def limits(self) -> list[int]:
        """Return the values of max_tokens that the run may send, ascending."""
        policy, limits = self._generate.truncation, [self._generate.sampling.max_tokens]
        if policy.policy == "raise_max_tokens":
            for _ in range(policy.times):
                limits.append(int(limits[-1] * policy.factor))
        return limits

    def unfinished_questions(self) -> set[str]:
        """Return the ids of the questions for which a run would still buy something.

        Replays the run over the store, and fills in what each question `has`.
        """
        failed = set(ledger.failures(self._run.store_path)) if self._identities else set[str]()
        prompts = {q.prompt for q in self.questions if q.stored or failed}
        unfinished = {q.task.id for q in self.questions if q.prompt not in prompts}
        # In the order of the data: `give_up` learns from the first of them.
        touched = [task for task in self._tasks if task.id not in unfinished]
        if not touched:
            return unfinished
        filters = FilterSet.from_config(self._run)
        asking = [f for f in filters.filters if "teacher" in f.config.needs]
        if asking:  # a replay spends nothing on judges either
            names = ", ".join(loaded.spec.name for loaded in asking)
            self.notes.append(f"what these filters ask of teachers is not counted: {names}")
        filters = replace(filters, filters=tuple(f for f in filters.filters if f not in asking))
        with filters.chain("trace") as chain:
            spec = generation_spec(self._run, filters, chain.check_trace)
            more, used = _replay(self._run.store_path, spec, touched, failed)
        for question in self.questions:
            for name, key, figures in question.stored:
                if key in used:
                    question.has.setdefault(name, Counter()).update(figures)
        return unfinished | more

    def _known_identities(self) -> dict[str, str]:
        """Return teachers by the digest of what stands for them in the store's keys."""
        try:
            teachers = run_teachers.build_teachers(self._run)
        except UserError as error:  # no key yet: an estimate needs none
            self.notes.append(f"the store was not looked at, all counts as still to buy: {error}")
            return {}
        return {digest(teacher.identity): name for name, teacher in teachers.items()}

    def _read_store(self) -> None:
        """Part the store's answers among this run's questions and the teachers' histories."""
        by_prompt = {question.prompt: question for question in reversed(self.questions)}
        comparable, limits = _comparable(self._generate.sampling.parameters(0)), self.limits()
        frame = _frame_of(self.rendered)
        for entry in ledger.entries(self._run.store_path):
            name = self._identities.get(digest(entry.request["teacher"]))
            sampling = entry.request["sampling"]
            if name is None or _comparable(sampling) != comparable:
                continue
            if sampling.get("max_tokens") not in limits:
                continue
            messages = entry.request["messages"]
            if sampling.get("continue_final_message"):
                messages = messages[:-1]
            # Two questions with one prompt share what was bought: it counts for the first.
            question = by_prompt.get(digest(messages))
            if question is not None:
                figures = {
                    "calls": 1,
                    "prompt_tokens": entry.prompt_tokens or 0,
                    "completion_tokens": entry.completion_tokens or 0,
                    "bytes": entry.size,
                    "latency": entry.latency,
                }
                question.stored.append((name, entry.key, figures))
            if (question or (frame and frame.fits(messages))) and len(self.history[name]) < KEPT:
                self.history[name].append(entry)


def shuffled(tasks: Sequence[Task], seed: int) -> list[Task]:
    """Return the questions in an order that the seed and each question alone decide.

    Its beginning is a random sample, and stays one when questions are appended.
    """
    return sorted(tasks, key=lambda task: hashlib.sha256(f"{seed}:{task.id}".encode()).digest())


class _ReplayTeacher(Teacher):
    """Stands in for a teacher: has what the store has, and notes which questions want more."""

    def __init__(self, identity: dict[str, Any], failed: set[str], unfinished: set[str]) -> None:
        self.identity = identity
        self._failed, self._unfinished = failed, unfinished

    async def complete(self, request: Request) -> dict[str, Any]:
        """Sells nothing."""
        if request_key(request, self.identity).key not in self._failed:
            assert request.task is not None
            self._unfinished.add(request.task.id)
        raise RequestRejected("not for sale")


class _ReadOnlyStore(ResponseStore):
    """Reads the store as it is, writes nothing into it, and notes which answers were used."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.used: set[str] = set()

    def get(self, key: str) -> Stored | None:
        """Return the response under a key."""
        response = super().get(key)
        if response is not None:
            self.used.add(key)
        return response

    async def set_aside(self, key: str) -> None:
        """Counts a response that holds no answer as one to buy."""
        self.used.discard(key)

    async def persist_failure(self, *_: Any, **__: Any) -> None:
        """Nothing failed: nothing was asked."""

    async def persist_fallback_teacher(self, *_: Any) -> None:
        """Nobody answered."""


def _replay(
    path: Path, spec: GenerationSpec, tasks: Sequence[Task], failed: set[str]
) -> tuple[set[str], set[str]]:
    """Return the questions for which a rerun would buy something, and the keys it would use."""
    unfinished: set[str] = set()
    store = _ReadOnlyStore(path)
    with store:
        replay = replace(
            spec,
            teachers={
                name: _ReplayTeacher(teacher.identity, failed, unfinished)
                for name, teacher in spec.teachers.items()
            },
            options={n: o.model_copy(update={"budget": None}) for n, o in spec.options.items()},
            budget=None,
            count_tokens=None,
        )
        asyncio.run(generate(replay, store, tasks, lambda task, records: None, GenerationStats()))
    return unfinished, store.used


def _comparable(sampling: dict[str, Any]) -> dict[str, Any]:
    """Return what has to be equal for one answer's length to say something of another's."""
    apart = {"seed", "max_tokens", "continue_final_message", "add_generation_prompt"}
    return {name: value for name, value in sampling.items() if name not in apart}


@dataclass(frozen=True)
class _Frame:
    """What a template puts around a question, where that is the same for all of them."""

    other_messages: list[Message]
    before: str
    after: str

    def fits(self, messages: Sequence[Message]) -> bool:
        """Return whether some stored messages came of the same template."""
        if list(messages[:-1]) != self.other_messages:
            return False
        last = messages[-1]["content"]
        return last.startswith(self.before) and last.endswith(self.after)


def _frame_of(rendered: Sequence[tuple[Task, list[Message]]]) -> _Frame | None:
    frames: list[_Frame] = []
    for task, messages in rendered[:20]:
        before, question, after = messages[-1]["content"].partition(task.question)
        frame = _Frame(messages[:-1], before, after)
        if not question or frame != (frames or [frame])[0]:
            return None
        frames.append(frame)
    return frames[0] if frames else None
