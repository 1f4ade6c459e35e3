"""Generation: order, retries, stops, faults; every request answered once or failed with its reason."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth import generate as engine
from synth import buying, lane
from synth.generate_config import Samples, Sampling
from synth.errors import Unfinished, UserError
from synth.counts import Counts, usage_of
from synth.generate import Ask, generate
from synth.prompts import load_prompt
from synth.record import Task, Verdict
from synth.store import Store, StoreFull, keyed, request_key
from synth.teachers import fake, openai
from synth.teachers.contract import Price, Refused, Request, Retry


def tasks(n):
    return [Task(f"t{i}", f"question {i}", str(i)) for i in range(n)]


def right(record):
    good = f"\\boxed{{{record.task.answer}}}" in record.answer
    return [Verdict("right", good, "" if good else "wrong answer: x")]


def ask_with(*teachers, samples=None, check=right, **more):
    named = {f"teacher{i}": t for i, t in enumerate(teachers)}
    return Ask(
        teachers=named, prices={}, prompt=load_prompt("plain"), values={},
        sampling=Sampling(max_tokens=9), samples=samples or Samples(), check=check, **more,
    )  # fmt: skip


def run(ask, questions, path, counts=None):
    """Generates and gives the records of each question, in the order in which they came."""
    got, counts = [], counts or Counts()
    with Store(path) as store:
        asyncio.run(
            generate(
                ask, store, questions, lambda task, records: got.append((task, records)), counts
            )
        )
    return got, counts


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(buying, "_backoff", lambda attempt: 0.01)
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sqlite"


class Scripted:
    """A teacher that does what its script says for each attempt."""

    def __init__(self, script, identity="scripted"):
        self.identity = {"kind": identity}
        self.script, self.asked, self.in_flight, self.most = script, [], 0, 0

    async def complete(self, request):
        self.asked.append((request.messages[-1]["content"], request.sample))
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(0.002)
            done = self.script(request, len(self.asked))
            if isinstance(done, BaseException):
                raise done
            return {"choices": [{"message": {"content": done}, "finish_reason": "stop"}]}
        finally:
            self.in_flight -= 1

    async def close(self):
        self.closed = True


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


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 63))
def test_until_verified_never_buys_more_than_it_must(most, wanted, bits):
    if wanted > most:
        return
    good = [bool(bits >> i & 1) for i in range(6)]

    async def count():
        teacher = Scripted(lambda r, n: "\\boxed{0}" if good[r.sample] else "no")
        with Store(Path(os.devnull).with_name("shm") / f"t{os.getpid()}.sqlite") as store:
            try:
                await generate(
                    ask_with(teacher, samples=Samples(max=most, until_verified=wanted)),
                    store,
                    tasks(1),
                    lambda *_: None,
                    Counts(),
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
            return Retry("status 429: slow down", after=0.01)
        return "x"

    _, counts = run(ask_with(Scripted(script)), tasks(20), path)
    assert counts.bought == 20
    assert counts.retried == {"status 429": 19}


def test_a_failure_for_good_costs_only_its_own_request(path):
    def script(request, number):
        return (
            Refused("status 400: too long")
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
    script = lambda r, n: Retry("timeout: no answer in 1 s") if r.task.id == "t1" else "x"  # noqa: E731
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
    teacher = Scripted(lambda r, n: Retry("cannot reach http://x", unreachable=True))
    with pytest.raises(UserError, match="cannot reach"):
        run(ask_with(teacher, concurrency=4, retries=50), tasks(20), path)
    assert len(teacher.asked) == lane.FIRST_ATTEMPTS


def test_an_outage_later_on_does_not_stop_the_run(path):
    script = lambda r, n: "x" if n < 5 or n > 12 else Retry("cannot reach", unreachable=True)  # noqa: E731
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
    real = Store.put
    puts = []

    async def put(self, *arguments):
        puts.append(1)
        if len(puts) > 5:
            raise StoreFull("no space left")
        await real(self, *arguments)

    monkeypatch.setattr(Store, "put", put)
    with pytest.raises(Unfinished, match="make room and run again"):
        run(ask_with(Scripted(lambda r, n: "x"), concurrency=2), tasks(30), path)
    monkeypatch.undo()
    with Store(path) as store:
        assert store.count() == 5


def test_malformed_responses_are_tried_again_and_never_stored(path):
    class Broken(Scripted):
        async def complete(self, request):
            await super().complete(request)
            return {"choices": []}

    _, counts = run(ask_with(Broken(lambda r, n: "x"), retries=1), tasks(2), path)
    assert counts.failed == {"malformed response": 2}
    with Store(path) as store:
        assert store.count() == 0


# --- the key ---


REQUEST = Request(
    [{"role": "user", "content": "q"}], {"temperature": 0.5, "max_tokens": 5}, 0, tasks(1)[0]
)


@pytest.mark.parametrize(
    ("other", "identity", "same"),
    [
        (REQUEST, {"kind": "a"}, True),
        (
            Request(REQUEST.messages, dict(reversed(REQUEST.sampling.items())), 0, None),
            {"kind": "a"},
            True,
        ),
        (Request([{"role": "user", "content": "q "}], REQUEST.sampling, 0), {"kind": "a"}, False),
        (Request([{"role": "system", "content": "q"}], REQUEST.sampling, 0), {"kind": "a"}, False),
        (Request(REQUEST.messages, {"temperature": 0.6, "max_tokens": 5}, 0), {"kind": "a"}, False),
        (Request(REQUEST.messages, REQUEST.sampling, 1), {"kind": "a"}, False),
        (REQUEST, {"kind": "a", "base_url": "http://other"}, False),
    ],
)
def test_what_is_in_the_key_and_what_is_not(other, identity, same):
    assert (request_key(other, identity) == request_key(REQUEST, {"kind": "a"})) is same


def test_the_store_keeps_hostile_text_as_it_came(path):
    raw = {"choices": [{"message": {"content": "\ud800 \x00 '; DROP TABLE responses; --"}}]}
    request = Request([{"role": "user", "content": "\udfff\x00"}])

    async def put():
        with Store(path) as store:
            await store.put(keyed(request, {}), json.dumps(raw).encode())
            assert store.get(request_key(request, {})).raw == raw
            await store.put(keyed(request, {}), b'{"choices": []}')
            assert store.get(request_key(request, {})).raw == raw
            assert store.count() == 1

    asyncio.run(put())


def test_what_is_no_store_is_said_so(tmp_path):
    path = tmp_path / "not-a-store"
    path.write_text("hello, this is a text file and no data base at all" * 100)
    with pytest.raises(UserError, match="damaged, or no response store"):
        Store(path)


@pytest.mark.skipif(
    os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="mounts a small disk"
)
def test_on_a_disk_that_is_really_full_what_is_under_way_still_finds_room(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        (Path(disk) / "filler").write_bytes(b"\0" * 3_500_000)
        noise = random.Random(1)
        teacher = Scripted(lambda r, n: noise.randbytes(20_000).hex())
        with pytest.raises(Unfinished, match="make room and run again"):
            run(ask_with(teacher, concurrency=8), tasks(3000), disk / "s.sqlite")
        with contextlib.closing(sqlite3.connect(disk / "s.sqlite")) as connection:
            stored = connection.execute("SELECT count(*) FROM responses").fetchone()[0]
        # More than the free room alone could take: the reserve was given up for it.
        assert stored * 20_000 > 3_000_000
        assert stored >= len(teacher.asked) - 8
    finally:
        subprocess.run(["umount", str(disk)], check=True)


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


# --- the openai teacher against a real server ---


def openai_run(api, path, questions=3, **config):
    key = config.pop("key", None)
    teacher = openai.build(openai.Config(model="m", base_url=api.url, **config), "t")
    teacher._key = key
    return run(ask_with(teacher, check=lambda r: [], retries=3), tasks(questions), path)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": "<think>r</think>a"}, ("r", "a")),
        ({"content": "r</think>a"}, ("r", "a")),
        ({"content": "a", "reasoning": "r"}, ("r", "a")),
        ({"content": "a", "reasoning_content": "r"}, ("r", "a")),
        ({"content": None, "reasoning_content": "r"}, ("r", "")),
        ({"content": "a"}, (None, "a")),
    ],
)
def test_reasoning_from_every_field(api, path, message, expected):
    answer = api.completion("")
    answer["choices"][0]["message"] = {"role": "assistant", **message}
    api.reply = lambda body: (200, {}, answer)
    got, _ = openai_run(api, path, 1)
    record = got[0][1][0]
    assert (record.reasoning, record.answer) == expected
    assert record.generation.prompt_tokens == 10
    assert record.generation.model == "test-model"


def test_what_is_sent(api, path):
    teacher = openai.build(
        openai.Config(model="m", base_url=api.url, max_tokens_name="max_completion_tokens"), "t"
    )
    ask = ask_with(teacher, check=lambda r: [])
    ask.sampling = Sampling(
        temperature=0.5, top_k=20, max_tokens=7, seed=3, extra={"reasoning_effort": "low"}
    )
    run(ask, tasks(1), path)
    assert api.received == [
        {
            "model": "m", "messages": [{"role": "user", "content": "question 0"}], "temperature": 0.5,
            "top_k": 20, "max_completion_tokens": 7, "seed": 3, "reasoning_effort": "low",
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "error", "kind", "says"),
    [
        (401, "bad key sk-secret", UserError, "does not accept the key"),
        (403, "forbidden", UserError, "does not accept the key"),
        (404, "no model m", UserError, "knows no model 'm'"),
        (402, "insufficient balance", Unfinished, "used up"),
        (429, "You exceeded your current quota", Unfinished, "used up"),
    ],
)
def test_statuses_that_stop_the_run(api, path, status, error, kind, says):
    api.reply = lambda body: (status, {}, {"error": {"message": error}})
    with pytest.raises(kind, match=says) as caught:
        openai_run(api, path, 20, key="sk-secret")
    assert "sk-secret" not in str(caught.value)
    assert len(api.received) == 1


@pytest.mark.parametrize(
    ("fault", "failed"),
    [
        ((500, {}, "oops"), "status 500"),
        ((502, {}, "<html>bad gateway</html>"), "status 502"),
        ((200, {}, '{"choices": [{"mess'), "malformed response"),
        ((200, {}, {"choices": []}), "malformed response"),
        ((200, {}, "[]"), "malformed response"),
        ((400, {}, {"error": {"message": "too long"}}), "status 400"),
    ],
)
def test_faults_end_in_an_answer_or_a_reason(api, path, fault, failed):
    good = api.reply
    api.reply = lambda body: fault if "question 1" in str(body) else good(body)
    got, counts = openai_run(api, path)
    assert [len(records) for _, records in got] == [1, 0, 1]
    assert counts.failed == {failed: 1}


def test_retry_after_is_obeyed(api, path):
    times = []

    def reply(body):
        times.append(time.monotonic())
        if len(times) == 1:
            return 429, {"Retry-After": "1"}, {"error": {"message": "slow"}}
        return 200, {}, api.completion("x")

    api.reply = reply
    openai_run(api, path, 1)
    assert 0.95 <= times[1] - times[0] < 3


def test_a_slow_answer_times_out_and_is_tried_again(api, path):
    api.latency_s = 2
    _, counts = openai_run(api, path, 1, timeout_s=0.2)
    assert counts.failed == {"timeout": 1}


def test_nothing_listens_at_the_address(path):
    teacher = openai.build(openai.Config(model="m", base_url="http://127.0.0.1:9/v1"), "t")
    with pytest.raises(UserError, match=r"cannot reach http://127\.0\.0\.1:9/v1"):
        run(ask_with(teacher), tasks(5), path)


def test_the_key_reaches_the_server_and_no_file(api, tmp_path, distill, write_config):
    config = {
        "name": "r", "tasks": {"train": [{"source": "inline", "tasks": [{"question": "q", "answer": 1}]}]},
        "teachers": {"t": {"kind": "openai", "model": "m", "base_url": api.url, "api_key_env": "MY_KEY"}},
        "generate": {"prompt": {"template": "plain"}}, "filters": ["truncated"],
    }  # fmt: skip
    done = distill("run", write_config(config), env={"MY_KEY": "sk-very-secret"})
    assert done.returncode == 0, done.stderr
    assert api.headers[0]["Authorization"] == "Bearer sk-very-secret"
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert b"sk-very-secret" not in file.read_bytes(), file
    missing = distill("run", write_config(config), env={"MY_KEY": ""})
    assert missing.returncode == 2
    assert "environment variable MY_KEY, which is not set" in missing.stderr
    assert "Traceback" not in missing.stderr


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
    with Store(tmp_path / "runs" / "responses.sqlite") as store:
        assert store.count() == len(api.served) == len(api.received)
    asked = len(api.received)
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    assert len(api.received) == 100
    assert len({str(b["messages"]) for b in api.received}) == 100 > asked


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
