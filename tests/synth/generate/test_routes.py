"""Several teachers: turns, fallback, cascade, one that dies, and a reference by agreement."""

import random
import time
from collections import Counter

import pytest

from synth.config.generate import Samples
from synth.core.errors import Unfinished, UserError
from synth.core.usage import Price
from synth.generate import client as engine
from synth.generate import concurrency as lane
from synth.generate.spec import VoteResult
from synth.teachers.base import Cap, RequestRejected, RetryableError, TeacherConfig
from tests.helpers.scripted_teacher import Scripted, ask_with, completion, right, run, tasks


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(engine, "_backoff", lambda attempt: 0.01)
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sqlite"


def solves(*numbers, name="scripted"):
    return Scripted(
        lambda r, n: f"\\boxed{{{r.task.answer}}}" if int(r.task.answer) in numbers else "no", name
    )


def who(got):
    return [[r.generation.teacher for r in records] for _, records in got]


def test_a_cascade_asks_the_dear_one_only_for_what_the_cheap_one_left(path):
    cheap, dear = solves(0, 2, name="cheap"), solves(0, 1, 2, name="dear")
    samples = Samples(max=3, until_verified=1)
    options = {"teacher0": TeacherConfig(samples=2)}
    got, counts = run(
        ask_with(cheap, dear, samples=samples, route="cascade", options=options), tasks(4), path
    )
    assert who(got) == [["teacher0"], ["teacher0"] * 2 + ["teacher1"], ["teacher0"], ["teacher0"] * 2 + ["teacher1"] * 3]  # fmt: skip
    assert counts.solved == 3
    assert {q for q, _ in dear.asked} == {"question 1", "question 3"}


def test_a_cascade_goes_on_when_the_cheap_one_dies(path):
    dead = Scripted(lambda r, n: Unfinished("quota used up"), "dead")
    got, counts = run(
        ask_with(dead, solves(0, 1, name="b"), samples=Samples(max=2, until_verified=1), route="cascade"),
        tasks(2), path,
    )  # fmt: skip
    assert who(got) == [["teacher1"]] * 2
    assert counts.out == {"teacher0": "quota used up"}


@pytest.mark.parametrize(
    "error", [Unfinished("quota"), RetryableError("cannot reach", unreachable=True)]
)
def test_one_dead_teacher_of_three_costs_no_answer(path, error):
    alive = [Scripted(lambda r, n: "x", name) for name in "ab"]
    dead = Scripted(lambda r, n: error, "dead")
    got, counts = run(ask_with(alive[0], dead, alive[1], samples=Samples(max=3)), tasks(20), path)
    assert all(len(records) == 3 for _, records in got)
    assert Counter(name for names in who(got) for name in names) == {"teacher0": 20, "teacher2": 40}
    assert list(counts.out) == ["teacher1"]
    assert len(dead.asked) <= lane.FIRST_ATTEMPTS


def test_a_teacher_that_dies_later_on_is_replaced_and_a_rerun_buys_nothing(path):
    dying = Scripted(lambda r, n: "x" if n < 10 else UserError("key withdrawn"), "dying")
    heir = Scripted(lambda r, n: "y", "heir")
    first, counts = run(ask_with(dying, heir, samples=Samples(max=2)), tasks(30), path)
    assert all(len(records) == 2 for _, records in first)
    assert counts.out == {"teacher0": "key withdrawn"}
    alive, heir2 = Scripted(lambda r, n: "z", "dying"), Scripted(lambda r, n: "z", "heir")
    second, counts = run(ask_with(alive, heir2, samples=Samples(max=2)), tasks(30), path)
    assert not alive.asked
    assert not heir2.asked
    assert [[r.id for r in rs] for _, rs in second] == [[r.id for r in rs] for _, rs in first]


def test_when_the_last_teacher_dies_the_run_ends_with_all_that_came(path):
    teachers = [
        Scripted(lambda r, n, k=k: "x" if n < k else Unfinished("quota"), str(k)) for k in (4, 8)
    ]
    with pytest.raises(Unfinished, match="quota"):
        run(ask_with(*teachers, samples=Samples(max=2), concurrency=1), tasks(100), path)
    with engine.ResponseStore(path) as store:
        assert store.count() == 3 + 7


def test_a_wrong_key_at_the_start_stops_the_run_though_others_would_answer(path):
    good = Scripted(lambda r, n: "x", "good", seconds=0.01)
    bad = Scripted(lambda r, n: UserError("does not accept the key"), "bad")
    with pytest.raises(UserError, match="teacher teacher1: does not accept the key"):
        run(ask_with(good, bad, samples=Samples(max=2)), tasks(100), path)
    assert len(good.asked) <= 2


def test_fallback_asks_the_next_where_the_first_refuses(path):
    first = Scripted(
        lambda r, n: RequestRejected("status 400: policy") if r.task.id == "t1" else "x", "a"
    )
    second = Scripted(lambda r, n: "y", "b")
    got, counts = run(ask_with(first, second, route="fallback"), tasks(3), path)
    assert who(got) == [["teacher0"], ["teacher1"], ["teacher0"]]
    assert len(second.asked) == 1
    assert counts.failed == {"status 400": 1}


def test_each_teacher_keeps_to_its_own_width_and_budget(path):
    one, two = Scripted(lambda r, n: "x", "one"), Scripted(lambda r, n: "x", "two")
    options = {
        "teacher0": TeacherConfig(concurrency=2),
        "teacher1": TeacherConfig(budget=Cap(tokens=300)),
    }
    got, counts = run(
        ask_with(one, two, samples=Samples(max=2), options=options), tasks(60), path
    )  # fmt: skip
    assert one.most == 2
    assert two.most > 2
    assert len(two.asked) == 10  # of 30 tokens each
    assert "teachers.teacher1.budget.tokens" in counts.out["teacher1"]
    assert all(len(records) == 2 for _, records in got)


def test_provenance_is_on_every_record(path):
    got, _ = run(
        ask_with(Scripted(lambda r, n: "x"), prices={"teacher0": Price(input=1, output=2)}),
        tasks(1),
        path,
    )
    generation = got[0][1][0].generation
    assert (generation.teacher, generation.model, generation.template) == ("teacher0", "m", "plain")
    assert len(generation.template_hash) == len(generation.key) == 64
    assert generation.sampling == {"max_tokens": 9}
    assert generation.cost_usd == pytest.approx((10 * 1 + 20 * 2) / 1e6)


def by_text(answers):
    [(answer, votes)] = Counter(answers).most_common(1)
    return VoteResult(answer.removeprefix("\\boxed{").removesuffix("}"), votes, len(answers))


def test_agreement_over_teachers_gives_the_reference_that_is_missing(path):
    questions = tasks(3)
    for task in questions[1:]:
        task.answer = None
    says = {"question 1": ["7", "7", "8", "7"], "question 2": ["1", "2", "3", "4"]}
    script = lambda r, n: f"\\boxed{{{says.get(r.messages[-1]['content'], ['0'] * 4)[r.sample]}}}"  # noqa: E731
    teachers = [Scripted(script, name) for name in "ab"]
    got, counts = run(
        ask_with(*teachers, samples=Samples(max=4, until_verified=2), vote=by_text, agree=3), questions, path
    )  # fmt: skip
    known, settled, open_ = (records for _, records in got)
    assert len(known) == 2
    assert [r.task.answer for r in settled] == ["7"] * 4
    assert settled[0].task.metadata["vote"] == {"votes": 3, "of": 4}
    assert [right(r)[0].keep for r in settled] == [r.rejected_by is None for r in settled] == [True, True, False, True]  # fmt: skip
    assert [r.task.answer for r in open_] == [None] * 3
    assert counts.voted == 1
    assert counts.kept == 2 + 3
    assert counts.kept + counts.rejected.total() == 2 + 4 + 3


def test_an_agreement_that_cannot_be_reached_any_more_is_not_paid_for(path):
    question = tasks(1)
    question[0].answer = None
    teacher = Scripted(lambda r, n: f"\\boxed{{{r.sample}}}")
    samples = Samples(max=4, until_verified=1)
    run(ask_with(teacher, samples=samples, vote=by_text, agree=3), question, path)
    assert len(teacher.asked) == 3


def test_a_declared_reasoner_without_reasoning_stops_after_one_answer(path):
    teacher = Scripted(lambda r, n: "no thoughts")
    ask = ask_with(teacher, options={"teacher0": TeacherConfig(reasoning=True)})
    with pytest.raises(UserError, match="reasoning: true, but its first answer"):
        run(ask, tasks(50), path)
    assert len(teacher.asked) == 1
    thinks = Scripted(lambda r, n: "<think>a</think>b", "thinks")
    ask = ask_with(thinks, options={"teacher0": TeacherConfig(reasoning=True)})
    assert run(ask, tasks(3), path)[1].bought == 3


@pytest.mark.slow
def test_giving_up_saves_on_the_hopeless_and_a_rerun_buys_nothing(path):
    # Every fourth question is answered rightly half the time, the others never.
    def script(request, number):
        coin = random.Random(f"{request.task.id}:{request.sample}").random() < 0.5
        good = int(request.task.answer) % 4 == 0 and coin
        return f"\\boxed{{{request.task.answer}}}" if good else "no"

    samples = Samples(max=30, until_verified=1, give_up=0.01, learn=16)
    teacher = Scripted(script)
    got, counts = run(ask_with(teacher, samples=samples, concurrency=4), tasks(80), path)
    assert counts.solved >= 18  # of 20
    assert all(len(records) >= 6 for _, records in got[:16] if records[-1].rejected_by)
    assert max(len(records) for _, records in got[-20:]) < 20
    assert counts.gave_up > 30
    again = Scripted(script)
    second, _ = run(ask_with(again, samples=samples, concurrency=64), tasks(80), path)
    assert not again.asked
    assert [[r.id for r in records] for _, records in second] == [
        [r.id for r in rs] for _, rs in got
    ]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [20, 200])
def test_those_that_wait_for_what_others_teach_keep_nobody_from_being_asked(path, number):
    samples = Samples(max=9, until_verified=1, give_up=0.01, learn=64)
    teacher = Scripted(lambda request, n: "no", seconds=0)
    _, counts = run(ask_with(teacher, samples=samples, concurrency=1), tasks(number), path)
    assert counts.questions == number
    if number < 64:  # too few to learn from: asked to the end
        assert counts.bought == 9 * number and counts.gave_up == 0
    else:
        assert 6 * 64 <= counts.bought < 9 * number


def test_the_hours_of_a_budget_end_a_run(path):
    from synth.config.generate import Budget

    teacher = Scripted(lambda r, n: "x", seconds=0.05)
    start = time.monotonic()
    with pytest.raises(Unfinished, match=r"budget\.hours"):
        run(ask_with(teacher, concurrency=2, budget=Budget(hours=0.5 / 3600)), tasks(1000), path)
    assert time.monotonic() - start < 3


def reasons(**usage):
    done = completion("plain")
    done["usage"] |= usage
    return done


REASONS = TeacherConfig(reasoning=True)


def test_a_teacher_that_is_to_reason_and_does_not_is_given_up_alone(tmp_path):
    silent, other = Scripted(lambda r, n: reasons(), "a"), Scripted(lambda r, n: "x", "b")
    options = {"teacher0": REASONS}
    got, counts = run(ask_with(silent, other, options=options), tasks(10), tmp_path / "s.sqlite")
    assert len(silent.asked) == 1
    assert [len(records) for _, records in got] == [1] * 10
    assert list(counts.out) == ["teacher0"]
    assert "declared with reasoning: true" in counts.out["teacher0"]


@pytest.mark.parametrize(
    "done",
    [
        completion("<think>a</think>b"),
        completion("b", reasoning_details=[{"type": "reasoning.text", "text": "a"}]),
        completion([{"type": "thinking", "thinking": "a"}, {"type": "text", "text": "b"}]),
        completion("b", thinking_blocks=[{"type": "thinking", "thinking": "a"}]),
    ],
)
def test_reasoning_in_any_form_counts(done, tmp_path):
    teacher = Scripted(lambda r, n: done)
    run(ask_with(teacher, options={"teacher0": REASONS}), tasks(3), tmp_path / "s.sqlite")
    assert len(teacher.asked) == 3


@pytest.mark.parametrize(
    ("done", "why"),
    [
        (reasons(), "neither a field or part for it"),
        (completion("<think>\n\n</think>b"), "neither a field or part for it"),
        (reasons(completion_tokens_details={"reasoning_tokens": 450}), "counts 450 tokens of reasoning"),
    ],
)  # fmt: skip
def test_without_another_teacher_the_run_stops_and_says_why(done, why, tmp_path):
    teacher = Scripted(lambda r, n: done)
    with pytest.raises(UserError, match=f"teacher teacher0: declared with reasoning.*{why}"):
        run(ask_with(teacher, options={"teacher0": REASONS}), tasks(5), tmp_path / "s.sqlite")
    assert len(teacher.asked) == 1
