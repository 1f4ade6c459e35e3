"""Question loop: asks one question wave by wave until it has what is wanted."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from synth.core.errors import UserError
from synth.core.record import Message, Record, Task
from synth.generate.adaptive_sampling import PassRateModel
from synth.generate.client import RunStopping
from synth.generate.routing import SampleSlot
from synth.generate.sampler import Sampler
from synth.generate.spec import GenerationSpec

# Answers of a question after which it has taught enough about its pass rate; from there on it is
# asked like the others.
LEARNS_FROM = 6


class StopPolicy:
    """Decides which samples of one question come next, and when it is given up.

    Attributes:
        slots: The samples that are left, in their order.
        outcomes: Passes and failures: by teacher under `cascade`, else of all under `""`.
    """

    def __init__(
        self, spec: GenerationSpec, model: PassRateModel, slots: Iterable[SampleSlot]
    ) -> None:
        self.slots, self.outcomes = deque(slots), dict[str, tuple[int, int]]()
        self._samples, self._model = spec.samples, model
        self._cascade = spec.route == "cascade"

    def count(self, records: Iterable[Record]) -> None:
        """Count records as passed or failed."""
        for record in records:
            assert record.generation is not None
            key = record.generation.teacher if self._cascade else ""
            passed, failed = self.outcomes.get(key, (0, 0))
            rejected = record.rejected_by is not None
            self.outcomes[key] = passed + (not rejected), failed + rejected

    def wanted(self, first: bool) -> int:
        """Return how many samples the next wave is to have."""
        if self._samples.until_verified is None:
            return len(self.slots)
        verified = sum(passed for passed, _ in self.outcomes.values())
        wanted = self._samples.until_verified - verified
        return max(wanted, self._samples.start or 0) if first else wanted

    def take(self, wanted: int, task: Task, may_give_up: bool) -> tuple[list[SampleSlot], bool]:
        """Take the next wave, and tell whether the question is given up with none.

        In a cascade a wave is of one teacher only: the next may not be needed.
        """
        wave: list[SampleSlot] = []
        while self.slots and len(wave) < wanted:
            slot = self.slots[0]
            if self._cascade and wave and slot.teacher != wave[0].teacher:
                break
            key = slot.teacher if self._cascade else ""
            outcome = self.outcomes.get(key, (0, 0))
            stop = may_give_up and self._model.should_stop(task, key, *outcome)
            if stop and not self._cascade:
                return wave, not wave
            self.slots.popleft()
            if not stop:
                wave.append(slot)
        return wave, False


class VotePolicy:
    """Makes the answer on which enough samples agree the reference, where a question has none."""

    def __init__(self, sampler: Sampler, task: Task) -> None:
        spec, self._threads = sampler.client.spec, sampler.threads
        self._vote, self._agree = spec.vote, spec.agree
        self.pending = spec.vote is not None and task.answer is None
        self._votes = 0

    @property
    def missing(self) -> int:
        """How many votes are still needed; 0 where none is taken."""
        return self._agree - self._votes if self.pending else 0

    async def settle(self, task: Task, records: list[Record]) -> Task | None:
        """Return the question with the agreed answer as its reference, or None before that."""
        assert self._vote is not None
        answers = [record.answer for record in records]
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._threads, self._vote, answers)
        self._votes = result.votes if result else 0
        if result is None or self._votes < self._agree:
            return None
        self.pending = False
        vote = {"votes": result.votes, "of": result.total}
        return replace(task, answer=result.answer, metadata={**task.metadata, "vote": vote})


@dataclass(slots=True)
class QuestionLoop:
    """Asks one question."""

    task: Task  # its reference answer may come by agreement
    learning: bool  # whether the pass-rate model learns from it
    sampler: Sampler
    model: PassRateModel
    aside: AbstractContextManager[None]  # in it the question is not under way, and others begin
    records: list[Record] = field(default_factory=list)  # what came of it so far

    async def run(self) -> None:
        """Ask wave by wave, each as large as what is still wanted.

        Raises:
            RunStopping: The run ends; `records` holds what came before.
        """
        client = self.sampler.client
        spec, counts = client.spec, client.counts
        try:
            messages = spec.prompt.messages(self.task, spec.values)
        except UserError as error:
            client.halt(UserError(f"{error} (question {self.task.id})"))
            raise RunStopping from error
        slots = self.sampler.router.order(self.task.question, spec.samples.max)
        stop, vote = StopPolicy(spec, self.model, slots), VotePolicy(self.sampler, self.task)
        first = True
        while stop.slots:
            await self._wait_for_model(stop.outcomes, first)
            wanted = max(stop.wanted(first), vote.missing)
            if len(stop.slots) < vote.missing:  # it cannot be reached any more
                break
            wave, gave_up = stop.take(wanted, self.task, not (self.learning or first))
            counts.gave_up += gave_up
            if not wave:
                break
            first = False
            records = await self._sample(messages, wave)
            if vote.pending and (settled := await vote.settle(self.task, self.records)):
                counts.voted += 1
                self.task, records = settled, self.records
                for record in records:
                    await self.sampler.check_again(record, settled)
            if not vote.pending:
                stop.count(records)
        if self.learning:
            self.model.learn(self.task, stop.outcomes)

    async def _wait_for_model(self, outcomes: Mapping[str, tuple[int, int]], first: bool) -> None:
        """Hand on what was learned, and wait for the model before every wave but the first."""
        # Under `cascade` a later teacher has to be learned of too.
        spec = self.sampler.client.spec
        enough = spec.samples.max if spec.route == "cascade" else LEARNS_FROM
        if self.learning and len(self.records) >= enough:
            self.model.learn(self.task, dict(outcomes))
            self.learning = False
            with self.aside:  # others to learn from must be able to begin meanwhile
                await self.model.wait_until_fitted(self.task.source)
        elif not first and not self.learning:
            await self.model.wait_until_fitted(self.task.source)

    async def _sample(self, messages: list[Message], wave: list[SampleSlot]) -> list[Record]:
        """Return a wave's records, added to `records`; then raise what one of them raised."""
        results = await _gather(self.sampler.sample(self.task, messages, slot) for slot in wave)
        records = [result for result in results if isinstance(result, Record)]
        self.records += records
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return records


async def _gather(work: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Return what each gives, or raises: one that fails takes none of the others along."""
    first, *rest = work
    if rest:
        return await asyncio.gather(first, *rest, return_exceptions=True)
    try:  # a task more would cost as much as all the rest of it
        return [await first]
    except Exception as error:
        return [error]
