"""Caps: a run stops near them with exit status 3, and goes on when they are raised."""

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.config.generate import Budget, Sampling
from synth.config.validate import load_run
from synth.core.errors import ConfigError, Unfinished
from synth.core.usage import Price
from synth.generate.budget import BudgetTracker
from synth.generate.stats import GenerationStats
from synth.store.responses import ResponseStore
from synth.store.usage import Usage
from synth.teachers.base import Cap
from tests.helpers.scripted_teacher import Scripted, ask_with, completion, run, tasks

WINDOW = 8


def lengths(request, number):
    return completion("x", tokens=(10, random.Random(request.task.id).randint(20, 160)))


def test_a_cap_on_tokens_stops_within_a_window_of_it_and_goes_on_when_raised(tmp_path):
    path, questions = tmp_path / "s.sqlite", tasks(400)
    teacher = Scripted(lengths)
    more = {"concurrency": WINDOW, "run": "r"}
    for cap in (5_000, 5_000, 12_000):
        with pytest.raises(Unfinished, match=r"budget\.tokens: the cap of .* is reached"):
            run(ask_with(teacher, budget=Budget(tokens=cap), **more), questions, path)
        with ResponseStore(path) as store:
            spent = store.spent("r")["teacher0"]
        assert cap - WINDOW * 170 <= spent.tokens <= cap + WINDOW * 170
    assert len(set(teacher.asked)) == len(teacher.asked)
    _, counts = run(ask_with(teacher, **more), questions, path)
    assert counts.bought + counts.reused == 400
    assert len(set(teacher.asked)) == len(teacher.asked) == 400


def test_what_other_runs_bought_is_not_on_this_ones_account(tmp_path):
    path, teacher = tmp_path / "s.sqlite", Scripted(lengths)
    run(ask_with(teacher, run="one"), tasks(50), path)
    _, counts = run(ask_with(teacher, run="two", budget=Budget(tokens=100)), tasks(50), path)
    assert (counts.reused, counts.bought) == (50, 0)


def test_a_cap_in_dollars(tmp_path):
    prices = {"teacher0": Price(input=1e6, output=1e6)}  # a dollar a token
    teacher = Scripted(lengths)
    with pytest.raises(Unfinished, match=r"budget\.usd: the cap of \$2000"):
        run(ask_with(teacher, prices=prices, budget=Budget(usd=2000), run="r", concurrency=WINDOW), tasks(100), tmp_path / "s.sqlite")  # fmt: skip
    with ResponseStore(tmp_path / "s.sqlite") as store:
        assert 2000 - WINDOW * 170 < store.spent("r")["teacher0"].usd < 2000 + WINDOW * 170


def test_an_endpoint_that_counts_nothing_is_capped_by_what_it_sent(tmp_path):
    teacher = Scripted(lambda r, n: {"choices": [{"message": {"content": "x" * 4000}}]})
    with pytest.raises(Unfinished, match=r"budget\.tokens"):
        run(
            ask_with(teacher, budget=Budget(tokens=20_000), concurrency=4),
            tasks(100),
            tmp_path / "s",
        )
    assert 12 <= len(teacher.asked) <= 25


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(1, 8))
def test_the_purse_never_lets_out_more_than_the_cap_and_what_is_in_flight(costs, window):
    purse = BudgetTracker(Budget(tokens=500), {"t": Cap(tokens=300)}, {})
    flying, spent = [], 0
    for cost in costs:
        if purse.exceeded_cap("t") is None and len(flying) < window:
            purse.begin("t")
            flying.append(cost)
        elif flying:
            purse.end("t", done := flying.pop(0), None)
            spent += done
    assert spent + sum(flying) <= 300 + (window + 1) * 100


def test_what_was_spent_before_counts():
    purse = BudgetTracker(
        Budget(tokens=1000), {}, {"a": Usage(3, 900, 0.0), "b": Usage(1, 200, 0.0)}
    )
    refusal = purse.exceeded_cap("a")
    assert refusal is not None
    assert refusal[1]


def config(**generate):
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(200)]
    return {
        "name": "capped",
        "tasks": {"train": [{"source": "inline", "tasks": rows}]},
        "teachers": {"t": {"kind": "fake", "latency_s": 0.01}},
        "generate": {"prompt": {"template": "boxed.en"}, "concurrency": 8, **generate},
        "filters": ["truncated", "math_answer"],
    }


@pytest.mark.slow
def test_the_command_line_stops_with_status_3_and_goes_on(distill, write_config, tmp_path):
    path = write_config(config())
    done = distill("run", path, "budget.tokens=2000")
    assert done.returncode == 3, done.stderr
    assert "budget.tokens: the cap of 2,000 tokens is reached" in done.stderr
    said = re.search(r"(\d+) traces so far are in", done.stderr)
    manifest = json.loads((tmp_path / "runs/capped/generate/manifest.json").read_text())
    assert manifest["rows"]["train"] == int(said[1]) > 10
    assert not manifest["complete"]
    spent = manifest["counts"]["prompt_tokens"] + manifest["counts"]["completion_tokens"]
    assert 1000 < spent < 3000
    again = distill("generate", path, "budget.tokens=2000")
    assert again.returncode == 3
    more = distill("run", path, "budget.tokens=1000000")
    assert more.returncode == 0, more.stderr
    manifest = json.loads((tmp_path / "runs/capped/generate/manifest.json").read_text())
    assert manifest["rows"]["train"] == 200
    assert manifest["counts"]["reused"] == int(said[1])


@pytest.mark.slow
def test_a_cap_in_dollars_without_a_price_is_a_mistake(distill, write_config, api):
    costly = f"teachers.t={{kind: openai, base_url: '{api.url}', model: m}}"
    done = distill("generate", write_config(config()), "budget.usd=5", costly)
    assert done.returncode == 2 and not api.received
    assert "budget.usd needs the price of teacher t: set teachers.t.price" in done.stderr
    priced = distill(
        "generate",
        write_config(config()),
        "budget.usd=0.001",
        "teachers.t.price={input: 1, output: 2}",
    )
    assert priced.returncode == 3
    assert "budget.usd: the cap of $0.001" in priced.stderr


def without_usage(request, number):
    return {"choices": [{"message": {"content": "x" * 4000}, "finish_reason": "stop"}]}


def test_a_cap_in_dollars_holds_where_an_endpoint_counts_nothing(tmp_path, capsys):
    """By an estimate, which is said, counts over reruns and is in no measured figure."""
    path, teacher, counts = tmp_path / "s.sqlite", Scripted(without_usage), GenerationStats()
    more = {"prices": {"teacher0": Price(input=0, output=1e6)}, "run": "r", "concurrency": 2}
    for cap in (20_000, 20_000):
        with pytest.raises(Unfinished, match=r"budget\.usd"):
            run(ask_with(teacher, budget=Budget(usd=cap), **more), tasks(100), path, counts)
    assert 15 <= len(teacher.asked) <= 22  # a thousand tokens each, at a dollar a token
    assert counts.estimated == counts.bought == counts.unpriced == len(teacher.asked)
    assert counts.estimated_usd == pytest.approx(1000 * counts.bought)
    assert (counts.cost_usd, counts.completion_tokens) == (0.0, 0)
    said = capsys.readouterr().err
    assert said.count("teacher teacher0 does not count its tokens") == 1  # the rerun asks nothing
    records = [r for _, rs in run(ask_with(teacher, **more), tasks(5), path)[0] for r in rs]
    assert {(r.generation.completion_tokens, r.generation.cost_usd) for r in records} == {
        (None, None)
    }


@pytest.mark.parametrize("odd", [10**12, -5, "many"])
def test_usage_that_cannot_be_ends_no_budget_and_is_said(odd, tmp_path, capsys):
    def answer(request, number):
        return completion("x", tokens=(10, odd if request.task.id == "t3" else 20))

    teacher = Scripted(answer)
    prices = {"teacher0": Price(input=1, output=1)}
    ask = ask_with(teacher, prices=prices, budget=Budget(usd=1, tokens=10_000), run="r")
    _, counts = run(ask, tasks(20), tmp_path / "s.sqlite")
    assert (counts.bought, counts.estimated) == (20, 1)
    assert counts.odd_usage == {"completion_tokens": 1}
    assert "figures of usage that cannot be (completion_tokens)" in capsys.readouterr().err


def test_what_was_paid_for_a_refusal_is_on_the_account(tmp_path):
    path = tmp_path / "s.sqlite"
    teacher = Scripted(lambda r, n: completion("The ans", "content_filter", tokens=(10, 90)))
    prices = {"teacher0": Price(input=1e6, output=1e6)}
    with pytest.raises(Unfinished, match=r"budget\.usd"):
        run(ask_with(teacher, prices=prices, budget=Budget(usd=1000), run="r", concurrency=1),
            tasks(50), path)  # fmt: skip
    assert 9 <= len(teacher.asked) <= 11
    with ResponseStore(path) as store:
        assert store.count() == 0
        assert store.spent("r")["teacher0"].usd == 100 * len(teacher.asked)


@pytest.mark.parametrize(
    ("extra", "hint"),
    [
        ({"n": 4}, r"generate\.samples\.max"),
        ({"stream": True}, "stream: true on the teacher"),
        ({"messages": []}, "made from the question"),
        ({"model": "x"}, "set model on the teacher"),
        ({"api_key": "sk-x"}, "api_key_env"),
        ({"extra_body": {}}, "under extra themselves"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_what_does_it(extra, hint):
    run = {
        "name": "r",
        "tasks": {"train": [{"source": "inline", "tasks": [{"question": "q"}]}]},
        "teachers": {"t": {"kind": "fake"}},
        "generate": {"prompt": {"template": "plain"}, "sampling": {"extra": extra}},
    }
    with pytest.raises(ConfigError, match=hint) as error:
        load_run(run)
    assert f"generate.sampling.extra: {next(iter(extra))} cannot be set here" in str(error.value)
    assert "sk-x" not in str(error.value)
    assert Sampling(extra={"n": 1, "min_p": 0.1}).parameters(0)["n"] == 1
