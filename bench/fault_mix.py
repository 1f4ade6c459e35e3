"""Faults of single requests beside a plain correct client: what they cost in time.

    python bench/fault_mix.py                  every mix, 3 runs each in turn
    python bench/fault_mix.py --mix all --runs 5 --questions 1500 --in-flight 16

One server on loopback fails as the mix says, by the seed, the question and the attempt alone, so
both clients meet the same faults. The plain client is aiohttp with a semaphore: each retry waits by
itself, with the same numbers of retries and the same back-off, and where a 429 names a Retry-After
nobody sends before that. Both count what they answered, and the requests that they sent after they
had read a Retry-After and before its time.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path

import aiohttp
import openai as openai_sdk  # noqa: F401 - its import is in nobody's figures
from _shared.faults import AGAIN, ANSWERS, FAULTS, FIRST_SEED, REFUSED, FaultServer, draw, response
from common import machine, measured, median, table, versions

from synth.config.generate import Samples, Sampling
from synth.core.prompts import load_prompt
from synth.core.record import Task
from synth.generate.runner import generate
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.store.responses import ResponseStore
from synth.teachers import openai
from synth.teachers._openai.waits import retry_after
from synth.teachers.base import RetryableError

LATENCY_S = 0.05, 0.25
RETRIES, TIMEOUT_S = 6, 2.0
WAITS = [fault for fault in AGAIN if fault.startswith("429")]
SINGLE = [fault for fault in AGAIN if fault not in WAITS]
FOR_GOOD = ["500", "cut in the body", "empty choices", "invalid JSON", "502"]


def by_shares(*shares):
    """A plan that draws each request's fault anew: lists of faults, each with its share."""

    def plan(seed, ask):
        dice = draw(seed, *ask.place, ask.attempt)
        which = draw(seed, *ask.place, ask.attempt, "which")
        for faults, share in shares:
            if dice < share:
                return faults[int(which * len(faults))]
            dice -= share
        return ""

    return plan


def for_good(share, wanted=None):
    """A plan where a share of the questions fails for good, or those that `wanted` picks."""

    def plan(seed, ask):
        number = int(ask.question.split()[1])
        odd = wanted(number) if wanted else draw(seed, ask.question) < share
        return FOR_GOOD[number % len(FOR_GOOD)] if odd else ""

    return plan


FAULTS["503"] = lambda ask: [response(503, b'{"error": {"message": "overloaded"}}')]


def outage(begins_s, lasts_s):
    """A plan where every request fails for a while, counted from the first request."""
    first = []

    def plan(seed, ask):
        first.append(time.monotonic())
        return "503" if begins_s <= first[-1] - first[0] < begins_s + lasts_s else ""

    return plan


MIXES = {
    "no faults": lambda seed, ask: "",
    "7% of single requests": by_shares((SINGLE, 0.07)),
    "7% a 500": by_shares((["500"], 0.07)),
    "all faults": by_shares((SINGLE, 0.08), (WAITS, 0.02), (list(REFUSED), 0.01), (list(ANSWERS), 0.15)),
    "3% fail for good": for_good(0.03),
    "the first and the last 12 fail for good": for_good(0, lambda n: n < 12 or n >= QUESTIONS - 12),
    "all answers are a 503 for 30 s": outage(1.5, 30.0),
}  # fmt: skip
QUESTIONS = 1500


class Asked:
    """What a client was asked to wait for, and how often it sent all the same."""

    early, until = 0, 0.0

    def sends(self):
        self.early += time.monotonic() < self.until

    def fails(self, after):
        if after is not None:
            self.until = max(self.until, time.monotonic() + after)


class Failed(Exception):
    """This attempt failed; `after` is what the server asked for."""

    def __init__(self, after=None):
        super().__init__()
        self.after = after


async def post(session, url, body):
    """One attempt: whether the request is answered, or refused for good."""
    async with session.post(f"{url}/chat/completions", json=body) as response:
        content = await response.read()
    if response.status == 400:
        return False
    if response.status != 200:
        raise Failed(retry_after(response.headers))
    try:
        if isinstance(json.loads(content)["choices"][0]["message"], dict):
            return True
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise Failed


async def plain(url, in_flight, asked):
    """The plain correct client; gives how many questions it answered."""
    places, paused_until = asyncio.Semaphore(in_flight), 0.0
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)

    async def one(session, number):
        nonlocal paused_until
        message = {"role": "user", "content": f"question {number}"}
        body = {"model": "m", "messages": [message], "max_tokens": 9, "seed": FIRST_SEED}
        for attempt in range(RETRIES + 1):
            async with places:
                while (wait := paused_until - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                asked.sends()
                try:
                    return await post(session, url, body)
                except Failed as failure:
                    after = failure.after
                    asked.fails(after)
                    if after is not None:
                        paused_until = max(paused_until, time.monotonic() + after)
                except (aiohttp.ClientError, OSError, TimeoutError):
                    after = None
            if after is None:
                after = 0.5 * 2.0**attempt * random.uniform(0.5, 1.5)
            if attempt < RETRIES:
                await asyncio.sleep(after)
        return False

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        return sum(await asyncio.gather(*(one(session, n) for n in range(QUESTIONS))))


async def ours(url, in_flight, asked):
    """The generation of this project; gives how many questions it answered."""
    teacher = openai.build(openai.Config(model="m", base_url=url, timeout_s=TIMEOUT_S), "t")
    complete = teacher.complete

    async def watched(request):
        asked.sends()
        try:
            return await complete(request)
        except RetryableError as failure:
            asked.fails(failure.after)
            raise

    teacher.complete = watched
    spec = GenerationSpec(
        teachers={"t": teacher}, prices={}, prompt=load_prompt("plain"),
        values={}, sampling=Sampling(max_tokens=9, seed=FIRST_SEED), samples=Samples(),
        check=None, retries=RETRIES, concurrency=in_flight,
    )  # fmt: skip
    tasks = [Task(f"t{n}", f"question {n}") for n in range(QUESTIONS)]
    counts = GenerationStats()
    with tempfile.TemporaryDirectory() as folder, ResponseStore(Path(folder) / "s.sqlite") as store:
        await generate(spec, store, tasks, lambda task, records: None, counts)
    return counts.bought


WAYS = {"plain": plain, "ours": ours}


def one(way, mix, seed, in_flight):
    """Measures one way on one mix and prints it."""
    plan = MIXES[mix]
    span = LATENCY_S[1] - LATENCY_S[0]
    latency = lambda ask: LATENCY_S[0] + span * draw(seed, *ask.place, ask.attempt, "latency")  # noqa: E731
    asked = Asked()
    with FaultServer(lambda ask: plan(seed, ask), latency) as server:
        start = time.monotonic()
        answered = asyncio.run(WAYS[way](server.url, in_flight, asked))
        seconds = time.monotonic() - start
        sent = len(server.log)
    row = {"seconds": round(seconds, 2), "answered": answered, "sent": sent, "early": asked.early}
    print(json.dumps(row))


def main():
    global QUESTIONS
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mix", help=f"one of: {', '.join(MIXES)}; all by default")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    QUESTIONS = chosen.questions
    if chosen.one:
        one(chosen.one, chosen.mix, chosen.seed, chosen.in_flight)
        return
    print(
        f"{QUESTIONS:,} questions, {chosen.in_flight} in flight, {RETRIES} retries, answers after "
        f"{LATENCY_S[0]} to {LATENCY_S[1]} s, seed {chosen.seed}, {chosen.runs} runs each in turn, "
        f"medians; {machine()}; {versions('aiohttp')}\n"
    )
    rows = []
    for mix in [chosen.mix] if chosen.mix else MIXES:
        options = ["--mix", mix, "--questions", QUESTIONS, "--in-flight", chosen.in_flight]
        runs = {way: [] for way in WAYS}
        for _ in range(chosen.runs):
            for way in WAYS:
                more = [*options, "--seed", chosen.seed]
                runs[way].append(measured(__file__, way, *map(str, more)))
        base = median(runs["plain"], "seconds")
        for way, figures in runs.items():
            seconds = median(figures, "seconds")
            early = sum(figure["early"] for figure in figures)
            counted = [f"{median(figures, key):.0f}" for key in ("answered", "sent")]
            rows.append((mix, way, f"{seconds:.1f}", f"{seconds / base:.2f}", *counted, early))
    table(
        ["mix", "client", "seconds", "ratio", "answered", "requests", "too early, all runs"], rows
    )


if __name__ == "__main__":
    main()
