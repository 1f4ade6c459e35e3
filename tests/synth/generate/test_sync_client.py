"""A teacher asked from threads: paid for once, bounded, and an end when it cannot be asked."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from synth.config.generate import Samples, Sampling
from synth.config.validate import load_run
from synth.core.dataset import read_split
from synth.core.errors import ConfigError, UserError
from synth.core.prompts import load_prompt
from synth.core.run_folder import RunFolder
from synth.generate import client as buying
from synth.generate.spec import GenerationSpec
from synth.generate.sync_client import SyncClient
from synth.stages.pipeline import do_stage
from synth.store.responses import ResponseStore
from synth.teachers.base import RequestRejected, RetryableError, Teacher


class Scripted(Teacher):
    """A teacher that does what its script says to the text and the attempt."""

    def __init__(self, script):
        self.identity = {"kind": "scripted"}
        self.script, self.asked, self.in_flight, self.most, self.closed = script, [], 0, 0, 0

    async def complete(self, request):
        self.asked.append((request.messages[-1]["content"], request.sample))
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(0.005)
        self.in_flight -= 1
        done = self.script(request.messages[-1]["content"], len(self.asked))
        if isinstance(done, Exception):
            raise done
        return {"choices": [{"message": {"content": done}, "finish_reason": "stop"}]}

    async def close(self):
        self.closed += 1


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(buying, "_backoff", lambda attempt: 0.01)


@pytest.fixture
def asker(tmp_path):
    made = []

    def build(script, **more):
        teacher = Scripted(script)
        ask = GenerationSpec(
            teachers={"big": teacher}, prices={}, prompt=load_prompt("plain"), values={},
            sampling=Sampling(), samples=Samples(), check=None, **more,
        )  # fmt: skip
        made.append(SyncClient(tmp_path / "s.sqlite", ask))
        return made[-1], teacher

    yield build
    for one in made:
        one.close()


def say(text):
    return [{"role": "user", "content": text}]


def test_the_answer_comes_without_its_reasoning_and_is_paid_for_once(asker, tmp_path):
    ask, teacher = asker(lambda text, n: f"<think>hm</think>{text}!")
    assert ask("big", say("a"), {"max_tokens": 5}, 0) == "a!"
    assert ask("big", say("a"), {"max_tokens": 5}, 0) == "a!"
    assert ask("big", say("a"), {"max_tokens": 5}, 1) == "a!"
    assert teacher.asked == [("a", 0), ("a", 1)]
    assert (ask.counts.bought, ask.counts.reused) == (2, 1)
    ask.close()
    again, other = asker(lambda text, n: "never")
    assert again("big", say("a"), {"max_tokens": 5}, 0) == "a!" and other.asked == []
    with ResponseStore(tmp_path / "s.sqlite") as store:
        assert store.count() == 2


def test_many_threads_ask_at_once_up_to_the_bound(asker):
    ask, teacher = asker(lambda text, n: text.upper(), concurrency=4)
    with ThreadPoolExecutor(16) as threads:
        done = list(threads.map(lambda i: ask("big", say(f"q{i}"), {}, 0), range(60)))
    assert done == [f"Q{i}" for i in range(60)]
    assert 1 < teacher.most <= 4


def test_the_same_question_from_several_threads_is_asked_once(asker):
    ask, teacher = asker(lambda text, n: "x")
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: ask("big", say("a"), {}, 0), range(8))) == {"x"}
    assert len(teacher.asked) == 1


def test_what_may_pass_is_tried_again_and_what_will_not_is_an_error_of_this_question(asker):
    def script(text, n):
        if text == "bad":
            return RequestRejected("status 400: no")
        return RetryableError("status 503: busy") if n == 2 else "fine"

    ask, teacher = asker(script)
    assert ask("big", say("a"), {}, 0) == "fine"
    assert ask("big", say("b"), {}, 0) == "fine"
    with pytest.raises(RuntimeError, match="status 400: no"):
        ask("big", say("bad"), {}, 0)
    assert ask("big", say("c"), {}, 0) == "fine"
    assert len(teacher.asked) == 5 and ask.counts.failed == {"status 400": 1}


def test_a_wrong_key_ends_it_after_one_request(asker):
    ask, teacher = asker(lambda text, n: UserError("the key is not accepted"))
    for _ in range(3):
        with pytest.raises(UserError, match="big: the key is not accepted"):
            ask("big", say("a"), {}, 0)
    assert len(teacher.asked) == 1


def test_an_unknown_teacher_is_named(asker):
    ask, _ = asker(lambda text, n: "x")
    with pytest.raises(UserError, match="no teacher 'bigg'; did you mean 'big'"):
        ask("bigg", say("a"), {}, 0)


def test_closing_gives_everything_back_and_may_come_again(asker):
    ask, teacher = asker(lambda text, n: "x")
    ask.close()
    before = threading.active_count()
    assert ask("big", say("a"), {}, 0) == "x"
    ask.close()
    ask.close()
    assert teacher.closed == 1
    assert threading.active_count() == before
    assert ask("big", say("b"), {}, 0) == "x"


# --- with the judge, in a run ---------------------------------------------------------------------


@pytest.fixture
def judged(api, write_config, tmp_path):
    """Generates and filters two questions; `judge(text)` is what the judge replies."""

    def go(judge, **options):
        def reply(body):
            if "response_format" in body:
                done = judge(body["messages"][-1]["content"])
                return done if isinstance(done, tuple) else (200, {}, api.completion(done))
            return 200, {}, api.completion("<think>one and one</think>\\boxed{2}")

        api.reply = reply
        config = {
            "name": "r", "runs": str(tmp_path / "runs"),
            "tasks": {"train": [{"source": "inline", "tasks": [
                {"question": "1 + 1?", "answer": 2}, {"question": "3 - 1?", "answer": 2}]}]},
            "teachers": {"big": {"kind": "openai", "model": "m", "base_url": api.url}},
            "generate": {"prompt": {"template": "boxed.en"}, "samples": {"max": 2, "until_verified": 1}},
            "filters": ["math_answer", {"judge": {"teacher": "big", "score_min": 5, **options}}],
        }  # fmt: skip
        run, _ = load_run(str(write_config(config)))
        for stage in ("tasks", "generate", "filter"):
            do_stage(stage, run, lambda line: None)
        folder = RunFolder(run.folder).stage("filter")
        return [list(read_split(folder, split)) for split in ("kept", "rejected")]

    return go


def test_a_judge_in_a_run_scores_each_trace_and_is_paid_for_once(judged, api):
    def judge(text):
        return json.dumps({"reason": "fine", "score": 9 if "1 + 1" in text else 2})

    kept, rejected = judged(judge)
    assert [r.task.question for r in kept] == ["1 + 1?"]
    assert [(v.filter, v.score) for v in kept[0].verdicts] == [("math_answer", 1.0), ("judge", 9.0)]
    # Until one is verified: the second question is asked twice. The filter stage asks nothing new.
    assert {r.task.question for r in rejected} == {"3 - 1?"}
    judgements = [body for body in api.received if "response_format" in body]
    assert len(api.received) - len(judgements) == 3 and len(judgements) == 2
    bought = len(api.received)
    judged(judge, score_min=6)
    assert len(api.received) == bought


def test_a_judge_whose_endpoint_is_wrong_ends_the_run(judged):
    with pytest.raises(UserError, match="knows no model"):
        judged(lambda text: (404, {}, "{}"))


def test_a_judge_that_refuses_one_trace_costs_that_trace(judged):
    def judge(text):
        return json.dumps({"reason": "r", "score": 9}) if "1 + 1" in text else (400, {}, "{}")

    kept, rejected = judged(judge)
    assert len(kept) == 1
    assert rejected[0].rejected_by.reason.startswith(
        "cannot tell: the judge does not answer: status 400"
    )


def test_a_judge_that_is_no_teacher_is_a_mistake_with_its_line(judged):
    with pytest.raises(
        ConfigError, match=r"config.yaml:\d+: filters.1.judge.teacher: no teacher 'bgi'"
    ):
        judged(lambda text: "", teacher="bgi")
