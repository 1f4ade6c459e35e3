"""Sampler: one answer to one question, as a record with its verdicts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from synth.core.reasoning import is_cut, split_trace, whole_text
from synth.core.record import Generation, Message, Record, Request, Task, Verdict
from synth.generate.alarm import NoneKeptAlarm
from synth.generate.client import Reply, ResponseClient
from synth.generate.concurrency import TeacherClosed
from synth.generate.routing import SampleSlot
from synth.store.keys import RequestKey
from synth.teachers import RequestRejected


class Sampler:
    """Fetches samples and runs the trace filters over them, in threads."""

    def __init__(self, client: ResponseClient, threads: ThreadPoolExecutor) -> None:
        self.client, self.router, self.threads = client, client.spec.router(), threads
        self._spec, self._counts = client.spec, client.counts
        self._alarm = NoneKeptAlarm(client)

    async def sample(self, task: Task, messages: list[Message], slot: SampleSlot) -> Record | None:
        """Return one answer, from whichever teacher gives it; None if none does."""
        request = Request(messages, self._spec.sampling.parameters(slot.sample), slot.sample, task)
        key, store = self.client.key(slot.teacher, request), self.client.store
        names = [slot.teacher, *self.router.substitutes(slot.teacher)]
        if len(names) > 1 and (fallback := store.fallback_teacher(key.key)) in names:
            names = [str(fallback)]
        for name in names:
            try:
                record = await self._answer(name, request, key if name == slot.teacher else None)
            except TeacherClosed:
                continue
            except RequestRejected:
                if self._spec.route == "fallback" and name != names[-1]:
                    continue
                return None
            if name != slot.teacher:
                await self.client.persist(store.persist_fallback_teacher(key.key, name))
            return record
        self.client.end_if_none_left()
        return None

    async def _answer(self, name: str, request: Request, key: RequestKey | None) -> Record:
        """Return one answer of one teacher, continued or asked again where it was cut off."""
        policy, messages = self._spec.truncation, request.messages
        replies = [await self.client.fetch(name, request, key)]
        for _ in range(policy.times):
            if policy.policy not in ("raise_max_tokens", "continue") or not replies[-1].cut:
                break
            if policy.policy == "continue":
                request = continuation(request, messages, replies)
            else:
                limit = int(request.sampling["max_tokens"] * policy.factor)
                request = replace(request, sampling={**request.sampling, "max_tokens": limit})
                replies = []
            replies.append(await self.client.fetch(name, request))
        record = self._record(name, request, messages, replies)
        await self.check(record)
        return record

    async def check(self, record: Record) -> None:
        """Give a record its verdicts and count it."""
        if self._spec.check is not None or self._spec.count_tokens is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self.threads, self._check_in_thread, record)
        self._counts.kept += record.rejected_by is None
        self._counts.rejected += rejections(record)
        self._alarm.see(record)
        generation = record.generation
        if generation is not None and generation.student_tokens is not None:
            self._counts.student_tokens.append(generation.student_tokens)

    async def check_again(self, record: Record, task: Task) -> None:
        """Check a record against another reference answer, in place of its first check."""
        self._counts.rejected -= rejections(record)
        self._counts.kept -= record.rejected_by is None
        record.task = task
        await self.check(record)

    def _check_in_thread(self, record: Record) -> None:
        spec, generation = self._spec, record.generation
        count = spec.count_tokens
        if count is not None and generation is not None and generation.student_tokens is None:
            generation.student_tokens = count(f"{record.reasoning or ''}{record.answer}")
        record.verdicts = spec.check(record) if spec.check is not None else []
        if spec.truncation.policy == "drop" and generation and is_cut(generation.finish_reason):
            record.verdicts.append(Verdict("truncation", False, "truncated"))

    def _record(
        self, name: str, request: Request, messages: list[Message], replies: list[Reply]
    ) -> Record:
        assert request.task is not None
        reasoning, answer, finish = merged(replies)
        usages = [reply.usage[:3] for reply in replies]
        prompt, completion, cost = (_total(column) for column in zip(*usages, strict=True))
        return Record(
            id=f"{request.task.id}-{name}-{request.sample}",
            task=request.task,
            messages=messages,
            reasoning=reasoning,
            answer=answer,
            generation=Generation(
                teacher=name,
                model=str(replies[-1].raw.get("model", "")),
                template=self._spec.prompt.name,
                template_hash=self._spec.prompt.hash,
                sampling=request.sampling,
                sample=request.sample,
                finish_reason=finish,
                prompt_tokens=prompt,
                completion_tokens=completion,
                cost_usd=cost,
                latency_s=sum(reply.latency for reply in replies),
                key=replies[-1].key,
                earlier_keys=[reply.key for reply in replies[:-1]],
            ),
        )


def continuation(request: Request, messages: list[Message], replies: Sequence[Reply]) -> Request:
    """Return the request that continues an answer which was cut off.

    The parameters are vLLM's; teachers of other endpoints translate them.
    """
    prefix = Message(role="assistant", content="".join(whole_text(reply.raw) for reply in replies))
    sampling = request.sampling | {"continue_final_message": True, "add_generation_prompt": False}
    return replace(request, messages=[*messages, prefix], sampling=sampling)


def merged(replies: Sequence[Reply]) -> tuple[str | None, str, str]:
    """Return reasoning, answer and finish reason of an answer in one piece or in several."""
    if len(replies) == 1:
        return replies[0].parsed
    text = "".join(whole_text(reply.raw) for reply in replies)
    return (*split_trace(text), replies[-1].parsed[2])


def rejections(record: Record) -> Counter[str]:
    """Return the kind of reason for which a record is rejected, counted once; else nothing."""
    rejected = record.rejected_by
    return Counter([rejected.kind] if rejected else [])


def _total(values: Sequence[Any]) -> Any:
    """Return their sum, or None where one of them is not known."""
    return None if None in values else sum(values)
