"""The thread of the embedded teacher: full memory, cancelled requests, closing, and what it loads."""

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from synth.core.errors import UserError
from synth.core.record import Request
from synth.teachers import transformers as teacher_module
from synth.teachers._transformers import batching as decoding
from tests.helpers.embedded_teacher import (
    GREEDY,
    SHARED,
    ask,
    text,
)


def test_out_of_memory_fails_the_batch_and_not_the_teacher(llama, monkeypatch):
    step, failures = decoding.Slots._step, [MemoryError()]

    def failing(self):
        if failures:
            raise failures.pop()
        step(self)

    monkeypatch.setattr(decoding.Slots, "_step", failing)

    async def main():
        config = teacher_module.Config(model=llama, dtype="float32", batch_size=2)
        teacher = teacher_module.build(config, "tiny")
        found = await asyncio.gather(
            *(teacher.complete(Request(m, GREEDY)) for m in SHARED), return_exceptions=True
        )
        await teacher.close()
        return found

    found = asyncio.run(main())
    errors = [raw for raw in found if isinstance(raw, Exception)]
    assert 1 <= len(errors) <= 2
    assert all(isinstance(error, UserError) and "batch_size" in str(error) for error in errors)
    expected = ask(llama, [Request(m, GREEDY) for m in SHARED])
    for raw, right in zip(found, expected, strict=True):
        assert isinstance(raw, Exception) or text(raw) == text(right)


def test_cancelled_requests_make_room(llama, monkeypatch):
    step, steps = decoding.Slots._step, []

    def slow(self):
        steps.append(len(self.rows))
        time.sleep(0.005)
        step(self)

    monkeypatch.setattr(decoding.Slots, "_step", slow)

    async def main():
        config = teacher_module.Config(model=llama, dtype="float32", batch_size=2)
        teacher = teacher_module.build(config, "tiny")
        long = {"temperature": 0, "max_tokens": 200}
        tasks = [asyncio.create_task(teacher.complete(Request(m, long))) for m in SHARED[:4]]
        while not steps:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        answer = await teacher.complete(Request(SHARED[5], GREEDY))
        await teacher.close()
        return answer

    answer = asyncio.run(main())
    assert len(steps) < 150
    assert text(answer) == text(ask(llama, [Request(SHARED[5], GREEDY)])[0])


@pytest.mark.slow
def test_the_event_loop_goes_on(llama, monkeypatch):
    step = decoding.Slots._step

    def slow(self):
        time.sleep(0.2)
        step(self)

    monkeypatch.setattr(decoding.Slots, "_step", slow)

    async def main():
        teacher = teacher_module.build(teacher_module.Config(model=llama), "tiny")
        task = asyncio.create_task(teacher.complete(Request(SHARED[0], GREEDY)))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0.02)
            ticks += 1
        await teacher.close()
        return ticks

    assert asyncio.run(main()) > 20


def test_close_ends_what_is_running(llama):
    async def main():
        teacher = teacher_module.build(teacher_module.Config(model=llama, batch_size=1), "tiny")
        tasks = [
            asyncio.create_task(teacher.complete(Request(m, {"max_tokens": 250}))) for m in SHARED
        ]
        await asyncio.sleep(0.1)
        await teacher.close()
        await teacher.close()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        return [type(outcome) for outcome in done]

    before = threading.active_count()
    assert asyncio.CancelledError in asyncio.run(main())
    assert threading.active_count() <= before + 1


def test_nothing_heavy_is_loaded_before_the_first_request(llama):
    code = (
        "import sys; from synth.teachers import transformers as t;"
        f"c = t.Config(model={llama!r}); assert t.check(c) == [];"
        "print(t.build(c, 'x').identity['model'][:7], {'torch', 'transformers'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split(maxsplit=1) == ["sha256:", "set()\n"]


def test_identity_follows_weights_and_dtype(llama, gemma3):
    def identity(**options):
        return teacher_module.build(teacher_module.Config(**options), "x").identity

    assert identity(model=llama) == identity(model=llama, batch_size=2)
    assert identity(model=llama) != identity(model=gemma3)
    assert identity(model=llama) != identity(model=llama, dtype="bfloat16")


def test_check_names_what_is_missing():
    (said,) = teacher_module.check(teacher_module.Config(model="./no/such/model.gguf"))
    assert "no such file" in said
