"""This project's generation over an API, every answer on the disk before it counts."""

import asyncio

import openai as _  # noqa: F401 - its import is in nobody's figures
from _driver import drive, question

from synth.config.generate import Samples, Sampling
from synth.core.prompts import load_prompt
from synth.core.record import Task
from synth.generate.runner import generate
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.store.responses import ResponseStore
from synth.teachers import openai


def ask(url, number, in_flight, folder):
    wanted = GenerationSpec(
        teachers={"t": openai.build(openai.Config(model="m", base_url=url), "t")},
        prices={}, prompt=load_prompt("plain"), values={}, sampling=Sampling(max_tokens=512),
        samples=Samples(), check=None, concurrency=in_flight,
    )  # fmt: skip
    tasks = (Task(f"t{n}", question(n), None) for n in range(number))
    with ResponseStore(folder / "responses.sqlite") as store:
        asyncio.run(generate(wanted, store, tasks, lambda task, records: None, GenerationStats()))
        return store.count()


if __name__ == "__main__":
    drive(ask, "openai", "aiohttp")
