"""Generation: order, retries, stops, faults; every request answered once or failed with its reason."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.config.generate import Samples
from synth.core.errors import Unfinished, UserError
from synth.core.prompts import load_prompt
from synth.core.usage import Price, usage_of
from synth.generate import client as buying
from synth.generate import concurrency as lane
from synth.generate import runner as engine
from synth.generate.runner import generate
from synth.generate.stats import GenerationStats
from synth.store.responses import ResponseStore, StoreFull
from synth.teachers import fake
from synth.teachers.base import Advertised, RequestRejected, RetryableError, Teacher, as_teacher
from tests.helpers.scripted_teacher import Scripted, ask_with, completion, run, tasks


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(buying, "_backoff", lambda attempt: 0.01)
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sqlite"


def test_records_come_in_the_order_of_the_questions_whatever_the_latency(path):
    class Uneven(Scripted):
        async def complete(self, request):
            await asyncio.sleep(random.Random(request.task.id).random() / 50)
            return await super().complete(request)

    got, counts = run(
        ask_with(Uneven(lambda r, n: "x"), samples=Samples(max=2), concurrency=8), tasks(60), path
    )
    assert [task.id for task, _ in got] == [f"t{i}" for i in range(60)]
    assert all([r.generation.sample for r in records] == [0, 1] for _, records in got)
    assert counts.bought == 120


def test_the_window_bounds_the_requests_in_flight(path):
    teacher = Scripted(lambda r, n: "x")
    run(ask_with(teacher, concurrency=5), tasks(50), path)
    assert teacher.most == 5


def test_questions_are_read_as_they_are_needed(path):
    read = []

    def stream():
        for task in tasks(500):
            read.append(task)
            yield task

    def script(request, number):
        if number == 1:
            assert len(read) <= 9 + engine.AHEAD * 4
        return "x"

    run(ask_with(Scripted(script), concurrency=4), stream(), path)


def test_nothing_is_asked_twice_and_a_changed_filter_costs_nothing(path):
    first = Scripted(lambda r, n: "x")
    run(ask_with(first, samples=Samples(max=2)), tasks(10), path)
    again = Scripted(lambda r, n: "y")
    got, counts = run(ask_with(again, samples=Samples(max=3), check=lambda r: []), tasks(12), path)
    assert sorted(again.asked) == sorted(
        [(f"question {i}", 2) for i in range(12)]
        + [(f"question {i}", s) for i in (10, 11) for s in (0, 1)]
    )
    assert counts.reused == 20
    assert {
        r.answer
        for _, records in got
        for r in records
        if r.generation.sample < 2 and r.task.id < "t1"
    } == {"x"}


def test_until_verified_stops_as_soon_as_there_are_enough(path):
    # Question i is answered rightly from sample i on.
    teacher = Scripted(
        lambda r, n: f"\\boxed{{{r.task.answer}}}" if r.sample >= int(r.task.answer) else "no"
    )
    got, counts = run(ask_with(teacher, samples=Samples(max=4, until_verified=1)), tasks(6), path)
    assert [len(records) for _, records in got] == [1, 2, 3, 4, 4, 4]
    assert counts.kept == 4
    assert counts.rejected == {"wrong answer": 14}


@pytest.mark.slow
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 63))
def test_until_verified_never_buys_more_than_it_must(most, wanted, bits):
    if wanted > most:
        return
    good = [bool(bits >> i & 1) for i in range(6)]

    async def count():
        teacher = Scripted(lambda r, n: "\\boxed{0}" if good[r.sample] else "no")
        with ResponseStore(Path(os.devnull).with_name("shm") / f"t{os.getpid()}.sqlite") as store:
            try:
                await generate(
                    ask_with(teacher, samples=Samples(max=most, until_verified=wanted)),
                    store,
                    tasks(1),
                    lambda *_: None,
                    GenerationStats(),
                )
            finally:
                store.close()
                for file in store.path.parent.glob(f"t{os.getpid()}.sqlite*"):
                    file.unlink()
        return len(teacher.asked)

    asked = asyncio.run(count())
    enough = next((n for n in range(1, most + 1) if sum(good[:n]) >= wanted), most)
    assert asked == enough


def test_a_failure_that_passes_is_tried_again(path):
    failed = set()

    def script(request, number):
        if number > 1 and request.task.id not in failed:
            failed.add(request.task.id)
            return RetryableError("status 429: slow down", after=0.01)
        return "x"

    _, counts = run(ask_with(Scripted(script)), tasks(20), path)
    assert counts.bought == 20
    assert counts.retried == {"status 429": 19}


def test_a_failure_for_good_costs_only_its_own_request(path):
    def script(request, number):
        return (
            RequestRejected("status 400: too long")
            if request.task.id == "t3" and request.sample == 1
            else "x"
        )

    got, counts = run(ask_with(Scripted(script), samples=Samples(max=3)), tasks(5), path)
    assert [len(records) for _, records in got] == [3, 3, 3, 2, 3]
    assert counts.failed == {"status 400": 1}
    with sqlite3.connect(path) as connection:
        assert [row[0] for row in connection.execute("SELECT reason FROM failures")] == [
            "status 400: too long"
        ]


def test_when_the_retries_are_used_up_the_reason_is_kept(path):
    script = lambda r, n: RetryableError("timeout: no answer in 1 s") if r.task.id == "t1" else "x"  # noqa: E731
    _, counts = run(ask_with(Scripted(script), retries=2), tasks(3), path)
    assert counts.failed == {"timeout": 1}
    assert counts.retried == {"timeout": 2}


def test_a_mistake_stops_the_run_after_one_request(path):
    teacher = Scripted(lambda r, n: UserError("does not accept the key"))
    with pytest.raises(UserError, match="teacher teacher0: does not accept the key"):
        run(ask_with(teacher, concurrency=50), tasks(200), path)
    assert len(teacher.asked) == 1
    assert teacher.closed


def test_an_address_where_nothing_answers_stops_the_run_early(path):
    teacher = Scripted(lambda r, n: RetryableError("cannot reach http://x", unreachable=True))
    with pytest.raises(UserError, match="cannot reach"):
        run(ask_with(teacher, concurrency=4, retries=50), tasks(20), path)
    assert len(teacher.asked) == lane.FIRST_ATTEMPTS


@pytest.mark.slow
def test_an_outage_later_on_does_not_stop_the_run(path):
    def script(request, attempt):
        return (
            "x" if attempt < 5 or attempt > 12 else RetryableError("cannot reach", unreachable=True)
        )

    _, counts = run(ask_with(Scripted(script), concurrency=2, retries=20), tasks(20), path)
    assert counts.bought == 20


def test_a_template_with_a_missing_variable_stops_the_run_before_it_pays(path):
    teacher = Scripted(lambda r, n: "x")
    ask = ask_with(teacher)
    ask.prompt = load_prompt("choice.en")
    with pytest.raises(UserError, match=r"'choices' is undefined.*question t0"):
        run(ask, tasks(5), path)
    assert not teacher.asked


def test_several_teachers_take_turns(path):
    one, two = Scripted(lambda r, n: "1", "one"), Scripted(lambda r, n: "2", "two")
    got, _ = run(ask_with(one, two, samples=Samples(max=3)), tasks(2), path)
    assert [r.answer for r in got[0][1]] == ["1", "2", "1"]
    assert [r.generation.teacher for r in got[0][1]] == ["teacher0", "teacher1", "teacher0"]


def test_a_full_disk_stops_with_all_that_came_kept(path, monkeypatch):
    real = ResponseStore.persist
    puts = []

    async def put(self, *arguments):
        puts.append(1)
        if len(puts) > 5:
            raise StoreFull("no space left")
        await real(self, *arguments)

    monkeypatch.setattr(ResponseStore, "persist", put)
    with pytest.raises(Unfinished, match="make room and run again"):
        run(ask_with(Scripted(lambda r, n: "x"), concurrency=2), tasks(30), path)
    monkeypatch.undo()
    with ResponseStore(path) as store:
        assert store.count() == 5


def test_malformed_responses_are_tried_again_and_never_stored(path):
    class Broken(Scripted):
        async def complete(self, request):
            await super().complete(request)
            return {"choices": []}

    _, counts = run(ask_with(Broken(lambda r, n: "x"), retries=1), tasks(2), path)
    assert counts.failed == {"malformed response": 2}
    with ResponseStore(path) as store:
        assert store.count() == 0


# --- figures ---


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 20}, (10, 20, 5e-5)),
        ({"prompt_tokens": 10}, (10, None, None)),
        ({"prompt_tokens": -1, "completion_tokens": 2.5}, (None, None, None)),
        ({"prompt_tokens": True, "completion_tokens": 10**18}, (None, None, None)),
        (None, (None, None, None)),
        ("lots", (None, None, None)),
    ],
)
def test_usage_is_believed_only_where_it_can_be(usage, expected):
    assert usage_of({"usage": usage}, Price(input=1, output=2)) == expected


def test_without_a_price_there_is_no_cost():
    assert usage_of({"usage": {"prompt_tokens": 1, "completion_tokens": 1}}, None)[2] is None


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_in_flight_and_a_rerun_goes_on(api, tmp_path, write_config):
    api.latency_s = 0.5
    rows = [{"question": f"q{i}", "answer": i} for i in range(100)]
    config = {
        "name": "r", "tasks": {"train": [{"source": "inline", "tasks": rows}]},
        "teachers": {"t": {"kind": "openai", "model": "m", "base_url": api.url}},
        "generate": {"prompt": {"template": "plain"}, "concurrency": 10}, "filters": ["truncated"],
    }  # fmt: skip
    command = [sys.executable, "-m", "synth", "generate", str(write_config(config))]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while len(api.received) < 25:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "a rerun goes on" in error
    assert "Traceback" not in error
    with ResponseStore(tmp_path / "runs" / "responses.sqlite") as store:
        assert store.count() == len(api.served) == len(api.received)
    asked = len(api.received)
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    assert len(api.received) == 100
    assert len({str(b["messages"]) for b in api.received}) == 100 > asked


def test_off_the_main_thread_which_gets_no_signals_all_is_answered(path):
    ask = ask_with(Scripted(lambda r, n: "x"))
    with ThreadPoolExecutor(1) as threads:
        got, counts = threads.submit(run, ask, tasks(20), path).result()
    assert (len(got), counts.bought) == (20, 20)


@pytest.mark.slow
def test_the_fake_teacher_is_deterministic_and_makes_the_faults_asked_for(path, tmp_path):
    config = fake.Config(accuracy=0.5, truncated=0.2, untagged=0.2, errors=0.3, refused=0.1)
    first, counts = run(ask_with(fake.build(config, "f"), retries=20), tasks(300), path)
    second, _ = run(
        ask_with(fake.build(config, "f"), retries=20), tasks(300), tmp_path / "other.sqlite"
    )
    assert [[(r.reasoning, r.answer) for r in records] for _, records in first] == [
        [(r.reasoning, r.answer) for r in records] for _, records in second
    ]
    assert counts.retried["made-up failure"] > 50
    assert 10 < counts.failed["made-up refusal"] < 60
    finish = [r.generation.finish_reason for _, records in first for r in records]
    assert 30 < finish.count("length") < 90


def test_a_teacher_of_a_users_own_class_without_the_base_class(path):
    """Accepted for one release, with the hooks' old names."""

    class Old:
        identity, opens_wide, advertised = {"kind": "old"}, True, None

        def __init__(self):
            self.calls = []

        async def complete(self, request):
            self.advertised = Advertised(requests=5)
            return completion("x")

        async def close(self):
            self.calls.append("close")

        def attach(self, store, run):
            self.calls.append(("attach", run))

        def let_go(self):
            self.calls.append("let_go")

        def at_once(self):
            self.calls.append("at_once")

    old = Old()
    ask = ask_with(old, run="r")
    teacher = ask.teachers["teacher0"]
    teacher.disable_batching()
    assert isinstance(teacher, Teacher) and ask.controller("teacher0").limit == ask.concurrency
    _, counts = run(ask, tasks(3), path)
    assert counts.bought == 3 and teacher.advertised == Advertised(requests=5)
    teacher.cancel_pending()
    assert old.calls == ["at_once", ("attach", "r"), "close", "let_go"]
    assert as_teacher(teacher) is teacher
