"""What tests of the generation share: teachers that follow a script, and a run in one call."""

import asyncio

from synth.config.generate import Samples, Sampling
from synth.core.prompts import load_prompt
from synth.core.record import Task, Verdict
from synth.generate.runner import generate
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.store.responses import ResponseStore
from synth.teachers.base import Teacher


def tasks(number, **more):
    return [Task(f"t{i}", f"question {i}", str(i), **more) for i in range(number)]


def right(record):
    good = f"\\boxed{{{record.task.answer}}}" in record.answer
    return [Verdict("right", good, "" if good else "wrong answer: x")]


def completion(text, finish="stop", tokens=(10, 20), **message):
    return {
        "model": "m",
        "choices": [{"message": {"content": text, **message}, "finish_reason": finish}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]},
    }


class Scripted(Teacher):
    """A teacher that does what its script says: gives text or a completion, or raises."""

    def __init__(self, script, identity="scripted", seconds=0.002):
        self.identity = {"kind": identity}
        self.script, self.seconds = script, seconds
        self.asked, self.requests, self.in_flight, self.most = [], [], 0, 0

    async def complete(self, request):
        self.asked.append((request.messages[-1]["content"], request.sample))
        self.requests.append(request)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(self.seconds)
            done = self.script(request, len(self.asked))
            if isinstance(done, BaseException):
                raise done
            return completion(done) if isinstance(done, str) else done
        finally:
            self.in_flight -= 1

    async def close(self):
        self.closed = True


def ask_with(*teachers, samples=None, check=right, **more):
    named = {f"teacher{i}": t for i, t in enumerate(teachers)}
    return GenerationSpec(
        teachers=named, prices=more.pop("prices", {}), prompt=load_prompt("plain"), values={},
        sampling=more.pop("sampling", Sampling(max_tokens=9)), samples=samples or Samples(),
        check=check, **more,
    )  # fmt: skip


def run(ask, questions, path, counts=None):
    """Generates and gives the records of each question, in the order in which they came."""
    got, counts = [], counts or GenerationStats()
    with ResponseStore(path) as store:
        emit = lambda task, records: got.append((task, records))  # noqa: E731
        asyncio.run(generate(ask, store, questions, emit, counts))
    return got, counts
