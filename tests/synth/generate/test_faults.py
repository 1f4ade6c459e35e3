"""Every fault of an API, alone and all together: each request is answered once, or failed and why."""

import asyncio
import sys
import threading
import time
from pathlib import Path

import pytest

from synth.config.generate import Samples, Sampling
from synth.core.errors import Unfinished, UserError
from synth.core.prompts import load_prompt
from synth.core.record import Request, Task
from synth.generate import client as buying
from synth.generate import concurrency as lane
from synth.generate.runner import generate
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.store import usage
from synth.store.responses import ResponseStore
from synth.teachers import openai

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "bench"))
from _shared.ends import ENDS, outcome
from _shared.faults import AGAIN, ANSWERS, FAULTS, FIRST_SEED, OUT, REFUSED, FaultServer, text_of
from _shared.kills import Campaign

ODD = "question 1"  # the one whose requests go wrong, between two that do not
LIMIT_S = 60  # no test may hang


def ask_all(server, path, retries=2, number=3, timeout_s=30.0, **options):
    """Asks the questions; gives the records of each, the counts, and the store's failures."""
    config = openai.Config(model="m", base_url=server.url, timeout_s=timeout_s)
    wanted = GenerationSpec(
        teachers={"t": openai.build(config, "t")}, prices={}, prompt=load_prompt("plain"),
        values={}, sampling=Sampling(max_tokens=9, seed=FIRST_SEED), samples=Samples(max=2),
        check=None, retries=retries, **options,
    )  # fmt: skip
    questions = [Task(f"t{n}", f"question {n}") for n in range(number)]
    got, counts = {}, GenerationStats()

    async def bounded(store):
        async with asyncio.timeout(LIMIT_S):
            await generate(
                wanted, store, questions, lambda t, r: got.__setitem__(t.question, r), counts
            )

    with ResponseStore(path) as store:
        try:
            asyncio.run(bounded(store))
        finally:
            failures = usage.failures(path)
            keys = [entry.key for entry in usage.entries(path)]
            assert len(keys) == len(set(keys)) == counts.bought + counts.reused
    return got, counts, failures


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(buying, "_backoff", lambda attempt: 0.01)
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sqlite"


def patience(fault):
    """Seconds to wait for an answer: short only where none comes, so that no machine is too slow."""
    return 0.5 if fault in ("no answer", "endless drip") else 30.0


def odd(fault, attempts=10**6):
    return lambda ask: fault if ask.question == ODD and ask.attempt < attempts else ""


@pytest.mark.parametrize("fault", [f for f in ANSWERS if f])
def test_an_odd_answer_is_an_answer_and_bought_once(fault, path):
    with FaultServer(odd(fault)) as server:
        got, counts, failures = ask_all(server, path)
        assert len(server.log) == 6
    assert [len(got[f"question {n}"]) for n in range(3)] == [2, 2, 2]
    assert not failures
    assert not counts.retried
    records = got[ODD]
    assert all(text_of(ODD, n).split("</")[0][7:] in r.reasoning for n, r in enumerate(records))
    if fault.startswith("usage") and fault != "usage not a number":
        assert {r.generation.prompt_tokens for r in records} == {None}
        assert counts.prompt_tokens == 40
    if fault == "other model":
        assert counts.models == {"t: m": 4, "t: another-model-0613": 2}


@pytest.mark.parametrize("fault", AGAIN)
def test_a_fault_that_passes_is_asked_again_and_answered(fault, path):
    start = time.monotonic()
    with FaultServer(odd(fault, attempts=1)) as server:
        got, counts, failures = ask_all(server, path, timeout_s=patience(fault))
        assert len(server.log) == 8
        assert sum(ask.answered for ask in server.log) == 6
    assert [len(records) for records in got.values()] == [2, 2, 2]
    assert not failures
    assert counts.retried.total() == 2
    if fault == "429, seconds":
        assert time.monotonic() - start > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*(f for f in AGAIN if not f.startswith("429")), *REFUSED])
def test_a_fault_that_stays_ends_in_a_reason_and_not_in_a_stop(fault, path):
    with FaultServer(odd(fault)) as server:
        got, counts, failures = ask_all(server, path, timeout_s=patience(fault))
        attempts = 1 if fault in REFUSED else 3
        assert len(server.log) == 4 + 2 * attempts
    assert [len(records) for records in got.values()] == [2, 0, 2]
    assert len(failures) == counts.failed.total() == 2
    assert all(reason.strip() and len(reason) < 400 for reason in failures.values())


async def complete(teacher):
    try:
        return await teacher.complete(Request([{"role": "user", "content": ODD}]))
    finally:
        await teacher.close()


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_came_while_the_process_was_held_up_is_read(stream):
    """As by Ctrl-Z, or on a busy machine: the time is over, and the answer is unread."""
    limit_s, held = 0.5, threading.Event()

    def hold_up():
        held.set()
        begun = time.monotonic()
        while time.monotonic() < begun + limit_s + 0.1 or not server.log[0].whole:
            assert time.monotonic() < begun + LIMIT_S
            time.sleep(0.01)

    def latency_s(ask):
        runner.get_loop().call_soon_threadsafe(hold_up)
        assert held.wait(LIMIT_S)
        return 0.0

    with FaultServer(latency_s=latency_s) as server, asyncio.Runner() as runner:
        config = openai.Config(model="m", base_url=server.url, timeout_s=limit_s, stream=stream)
        assert runner.run(complete(openai.build(config, "t")))
        assert len(server.log) == 1


def test_what_an_sdk_loads_holds_up_nobody():
    """Its import takes seconds, in which answers to other teachers come."""
    with FaultServer() as server, asyncio.Runner() as runner:
        teacher = openai.build(openai.Config(model="m", base_url=server.url), "t")
        address, going_on = teacher._address, threading.Event()

        def slow_address():
            runner.get_loop().call_soon_threadsafe(going_on.set)
            assert going_on.wait(5), "the event loop stands still"
            return address()

        teacher._address = slow_address
        assert runner.run(complete(teacher))


def test_a_rate_limit_that_stays_ends_the_run_when_patience_does(path):
    with (
        FaultServer(odd("429, seconds")) as server,
        pytest.raises(Unfinished, match=r"no answer for .* slow down"),
    ):
        ask_all(server, path, patience_s=1.0)


@pytest.mark.parametrize("fault", OUT)
def test_a_teacher_that_ends_in_the_middle_stops_the_run_with_all_that_came_stored(fault, path):
    once = "question 40", 0, 0
    with FaultServer(lambda ask: fault if (*ask.place, ask.attempt) == once else "") as server:
        kind = Unfinished if fault in ("402", "429, quota") else UserError
        with pytest.raises(kind, match=r"^teacher t: "):
            ask_all(server, path, number=80, concurrency=4)
        before = sum(ask.answered for ask in server.log)
        assert 60 < before < 100
        _, counts, failures = ask_all(server, path, number=80)
        assert counts.reused == before
        assert sum(ask.answered for ask in server.log) == 160, "an answer was bought twice"
    assert not failures


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDS)
def test_a_teacher_that_ends(name, tmp_path):
    assert outcome(ENDS[name], tmp_path).wrong == []


@pytest.mark.slow
def test_every_fault_and_kills_at_random_moments(tmp_path):
    account = Campaign(kills=6, seed="a few", folder=tmp_path).run()
    assert account.wrong == []
    assert account.kills == 6
    assert account.stored + account.failed.total() == account.wanted
    assert account.stored > account.wanted / 2
    assert account.faults.keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", ["500", "cut in the body", "empty choices", "400"])
def test_requests_that_fail_for_good_end_by_themselves_and_hold_nobody_up(fault, path):
    """The first and the last ones fail for good; a rerun, which has only these, ends as well."""
    bad = {f"question {n}" for n in (0, 1, 36, 37, 38, 39)}
    with FaultServer(lambda ask: fault if ask.question in bad else "") as server:
        for bought in (68, 0):
            _, counts, failures = ask_all(server, path, number=40, concurrency=8, patience_s=30)
            assert (counts.bought, counts.failed.total()) == (bought, 12)
            assert not counts.out
        assert len(failures) == 12
        attempts = 2 * 12 * (1 if fault == "400" else 3)
        # One that is sent while the endpoint seems unhealthy is not held against its request.
        spared = 0 if fault in ("400", "empty choices") else 12
        assert attempts <= len(server.log) - 68 <= attempts + spared


def test_questions_that_wait_to_be_tried_again_let_others_begin(path, monkeypatch):
    monkeypatch.setattr(buying, "_backoff", lambda attempt: 1.0)
    times = {}

    def plan(ask):
        number = int(ask.question.split()[1])
        times.setdefault(number, time.monotonic())
        return "empty choices" if 5 <= number < 30 and ask.attempt == 0 else ""

    with FaultServer(plan) as server:
        ask_all(server, path, number=60, concurrency=4)
    assert times[59] - times[5] < 1.0  # 13 at a time may be under way; 25 wait for a second
