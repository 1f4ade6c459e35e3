"""Asking one teacher one question, as the client of the teachers does."""

import asyncio

from synth.core import plugins
from synth.core.reasoning import parse_completion
from synth.core.record import Request
from synth.teachers import parse_answer

QUESTION = [{"role": "user", "content": "What is 1 + 1?"}]


def build(kind, url, **options):
    """A teacher as a config builds it."""
    module = plugins.load("teacher", kind)
    return module.build(module.Config(**{"model": "m", "base_url": url, **options}), "t")


def ask(teacher, messages=QUESTION, **sampling):
    """The raw completion of one request, as it is stored."""
    request = Request(list(messages), {"max_tokens": 50, **sampling}, 0)

    async def asked():
        try:
            return parse_answer(await teacher.complete(request), request)[0]
        finally:
            await teacher.close()

    return asyncio.run(asked())


def parts(raw):
    """Reasoning, answer and finish reason of a raw completion."""
    return parse_completion(raw)
