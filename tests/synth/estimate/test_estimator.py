"""Estimates: what they say before anything is bought, and how it compares with what came."""

import copy
import json
import random
import re

import numpy as np
import pytest

from synth.config.validate import load_run
from synth.core.errors import Unfinished, UserError
from synth.estimate.estimator import make_estimate
from synth.estimate.ranges import Range, exactly, interval, mean_of, ratio_of, sums_of_more
from synth.report.terminal import estimate_summary, stage_summary
from synth.stages.pipeline import do_stage
from synth.store.responses import ResponseStore
from synth.store.usage import bought, entries

QUESTIONS = 120


def config(**generate):
    rows = [{"question": f"What is {i} + 1?", "answer": i + 1} for i in range(QUESTIONS)]
    return {
        "name": "e",
        "seed": 5,
        "tasks": {"train": [{"source": "inline", "tasks": rows}]},
        "teachers": {
            "t": {"kind": "fake", "accuracy": 0.5, "price": {"input": 100.0, "output": 1000.0}}
        },
        "generate": {
            "prompt": {"template": "boxed.en"},
            "sampling": {"max_tokens": 64},
            "samples": {"max": 4, "until_verified": 1},
            **generate,
        },
        "filters": ["math_answer"],
    }


@pytest.fixture
def load(tmp_path, monkeypatch, write_config):
    monkeypatch.chdir(tmp_path)
    return lambda config: load_run(str(write_config(config)))[0]


def estimate(run, pilot=None):
    return make_estimate(run, pilot, None, lambda text: None)


def generate(run):
    for stage in ("tasks", "generate"):
        do_stage(stage, run, lambda text: None)


def total(result):
    return {part: Range(**figure) for part, figure in result["total"].items()}


def test_without_a_pilot_nothing_is_asked_and_bounds_are_given(load):
    run = load(config())
    result = estimate(run)
    figures = total(result)
    assert result["questions"] == {"total": QUESTIONS, "open": QUESTIONS, "sampled": 0}
    assert figures["calls"] == Range(120, None, 480, "bounds")
    assert figures["completion_tokens"] == Range(0, None, 480 * 64, "bounds")
    assert figures["prompt_tokens"].basis == "bounds"
    assert figures["usd"].high == pytest.approx(
        (100 * figures["prompt_tokens"].high + 1000 * 480 * 64) / 1e6
    )
    assert figures["seconds"].high is None
    assert any("by their characters" in note for note in result["notes"])
    with ResponseStore(run.store_path) as store:
        assert store.count() == 0
    generate(run)
    spent = bought(run.store_path, "e", 0)["t"]
    for part, true in (
        ("calls", spent.responses),
        ("prompt_tokens", spent.prompt_tokens),
        ("completion_tokens", spent.completion_tokens),
        ("usd", spent.usd),
        ("bytes", spent.size),
    ):
        assert figures[part].low <= true <= figures[part].high, part


def test_a_number_of_samples_that_is_fixed_is_known_exactly(load):
    result = estimate(load(config(samples={"max": 3})))
    assert total(result)["calls"] == exactly(360)


def test_a_pilot_is_a_part_of_the_run_and_nothing_of_it_is_bought_twice(load):
    run = load(config())
    result = estimate(run, pilot=20)
    pilot = result["pilot"]
    before = {entry.key for entry in entries(run.store_path)}
    assert len(before) == pilot["bought"] >= 20
    spent = bought(run.store_path, "e", 0)["t"]
    assert (pilot["cost_usd"], pilot["prompt_tokens"]) == (
        pytest.approx(spent.usd),
        spent.prompt_tokens,
    )
    assert result["questions"] == {"total": QUESTIONS, "open": 100, "sampled": 20}
    generate(run)
    manifest = json.loads((run.folder / "generate" / "manifest.json").read_text())
    assert manifest["counts"]["reused"] == len(before)
    whole = {entry.key for entry in entries(run.store_path)}
    assert len(whole) == len(before) + manifest["counts"]["bought"]
    assert estimate(run)["questions"]["open"] == 0


def test_the_pilot_is_drawn_at_random_by_the_seed(load):
    def asked(seed):
        run = load(config() | {"seed": seed, "store": f"{seed}.sqlite", "name": f"e{seed}"})
        estimate(run, pilot=10)
        texts = [str(entry.request["messages"]) for entry in entries(run.store_path)]
        return {int(re.search(r"What is (\d+)", text)[1]) for text in texts}

    first = asked(1)
    assert len(first) == 10
    assert first != set(range(10))
    assert asked(1) == first
    assert asked(2) != first


def test_a_pilot_is_found_again_and_what_is_bought_meanwhile_is_subtracted(load):
    run = load(config())
    piloted = estimate(run, pilot=30)
    again = estimate(run)
    assert again["total"] == piloted["total"]
    assert again["pilot"] is None
    half = load(config() | {"budget": {"tokens": 4000}})
    with pytest.raises(Unfinished):
        generate(half)
    later = estimate(run)
    assert later["questions"]["open"] < piloted["questions"]["open"]
    assert total(later)["usd"].expected < total(piloted)["usd"].expected


@pytest.mark.parametrize("seed", range(8))
def test_what_came_lies_in_the_interval_mostly(load, seed, capsys):
    run = load(config() | {"seed": seed})
    figures = total(estimate(run, pilot=30))
    pilot = bought(run.store_path, "e", 0)["t"]
    generate(run)
    spent = bought(run.store_path, "e", 0)["t"]
    # Eight draws at 95%; four standard errors off would be a mistake in the reckoning.
    for part, true in (
        ("calls", spent.responses - pilot.responses),
        ("prompt_tokens", spent.prompt_tokens - pilot.prompt_tokens),
        ("completion_tokens", spent.completion_tokens - pilot.completion_tokens),
        ("usd", spent.usd - pilot.usd),
        ("bytes", spent.size - pilot.size),
    ):
        figure = figures[part]
        assert figure.basis == "95%"
        reach = figure.high - figure.low
        assert figure.low - reach < true < figure.high + reach, part


def test_other_samples_in_the_store_do_not_count_for_this_run(load):
    estimate(load(config()), pilot=30)
    fewer = total(estimate(load(config(samples={"max": 1}) | {"name": "f"})))
    assert fewer["calls"] == exactly(90)


def test_what_another_run_stored_of_the_template_measures_the_answers(load):
    other = config() | {"name": "other"}
    for row in other["tasks"]["train"][0]["tasks"]:
        row["question"] = row["question"].replace("What is", "How much is")
    generate(load(other))
    result = estimate(load(config()))
    figures = total(result)
    assert result["questions"]["sampled"] == 0
    assert figures["calls"].basis == "bounds"
    assert (
        100 * 10 < figures["completion_tokens"].low < figures["completion_tokens"].high < 480 * 30
    )
    assert not any("by their characters" in note for note in result["notes"])
    longer = config(sampling={"max_tokens": 128})
    assert total(estimate(load(longer)))["completion_tokens"].low == 0  # not comparable


def test_a_question_that_was_given_up_is_done(load):
    hopeless = config(samples={"max": 8, "until_verified": 1, "give_up": 0.2, "learn": 20})
    hopeless["teachers"]["t"]["accuracy"] = 0.1
    run = load(hopeless)
    result = estimate(run, pilot=10)
    assert any(note.startswith("give_up is learned") for note in result["notes"])
    generate(run)
    manifest = json.loads((run.folder / "generate" / "manifest.json").read_text())
    assert manifest["counts"]["gave_up"] > 20
    assert estimate(run)["questions"]["open"] == 0


def test_what_failed_for_good_is_not_still_to_buy(load):
    refusing = config()
    refusing["teachers"]["t"]["refused"] = 0.3
    run = load(refusing)
    assert estimate(run, pilot=20)["pilot"]["failed"]
    generate(run)
    assert estimate(run)["questions"]["open"] == 0


def test_two_questions_with_one_prompt_are_bought_once(load):
    twice = config()
    rows = twice["tasks"]["train"][0]["tasks"]
    rows += [row | {"level": "hard"} for row in rows]
    twice["filters"] = []
    run = load(twice)
    generate(run)
    with ResponseStore(run.store_path) as store:
        assert store.count() == QUESTIONS
    assert estimate(run)["questions"] == {"total": 240, "open": 0, "sampled": 240}


def test_two_teachers_in_a_cascade_are_told_apart(load):
    both = config(route="cascade")
    both["teachers"]["u"] = {"kind": "fake", "accuracy": 0.9, "seed": 3}
    result = estimate(load(both), pilot=40)
    calls = {name: Range(**parts["calls"]) for name, parts in result["teachers"].items()}
    assert calls["t"].expected > 5 * calls["u"].expected
    assert total(result)["calls"].expected == pytest.approx(
        calls["t"].expected + calls["u"].expected
    )
    assert result["teachers"]["u"]["usd"]["high"] is None
    assert result["total"]["usd"]["high"] is None
    assert "u has no price: set teachers.u.price to reckon money" in result["notes"]


@pytest.mark.parametrize(
    ("cap", "says"),
    [
        ({"usd": 0.1}, "budget.usd $0.10: will be reached"),
        ({"usd": 30}, "budget.usd $30.00: may be reached"),
        ({"tokens": 10**7}, "budget.tokens 10,000,000: will not be reached"),
        ({"hours": 1}, "budget.hours 1.00: may be reached"),  # the latency is not known
    ],
)
def test_the_budget_is_compared(load, cap, says):
    lines = estimate(load(config() | {"budget": cap}))["budget"]
    assert len(lines) == 1
    assert lines[0].startswith(says)


def test_a_teachers_own_budget_is_compared_too(load):
    capped = config()
    capped["teachers"]["t"]["budget"] = {"tokens": 100}
    lines = estimate(load(capped))["budget"]
    assert lines == [
        "teachers.t.budget.tokens 100: will be reached; a run stops there, a higher cap goes on"
    ]


def test_limits_of_rate_bound_the_hours(load):
    slow = config(samples={"max": 1})
    slow["teachers"]["t"]["rpm"] = 6
    assert total(estimate(load(slow)))["seconds"].low == pytest.approx(1200)


def test_soft_labels_take_disk(load):
    plain = total(estimate(load(config())))["bytes"].high
    labelled = config(sampling={"max_tokens": 64, "top_logprobs": 20})
    assert total(estimate(load(labelled)))["bytes"].high > plain + 480 * 64 * 20 * 4


@pytest.mark.slow
def test_a_named_tokenizer_counts_the_prompts(load, smollm2):
    run = load(config(samples={"max": 1}))
    by_letters = total(estimate(run))["prompt_tokens"]
    result = make_estimate(run, None, smollm2.name_or_path, lambda text: None)
    counted = total(result)["prompt_tokens"]
    assert any(note.startswith("prompts: by another tokenizer") for note in result["notes"])
    assert by_letters.low < counted.expected < by_letters.high
    assert counted.high - counted.low < by_letters.high - by_letters.low


def test_the_key_is_not_needed_without_a_pilot_and_is_with_one(load, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    keyed = config()
    keyed["teachers"]["t"] = {"kind": "openai", "model": "m", "api_key_env": "NO_SUCH_KEY"}
    result = estimate(load(keyed))
    assert total(result)["calls"].low == 120
    assert any("the store was not looked at" in note for note in result["notes"])
    with pytest.raises(UserError, match="NO_SUCH_KEY, which is not set"):
        estimate(load(keyed), pilot=10)


def test_a_pilot_fails_as_a_run_does(load, api, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    api.reply = lambda body: (401, {}, {"error": {"message": "bad key sk-very-secret"}})
    wrong = config()
    wrong["teachers"]["t"] = {
        "kind": "openai", "model": "m", "base_url": api.url, "api_key_env": "SOME_KEY",
    }  # fmt: skip
    run = load(wrong)
    with pytest.raises(UserError, match="does not accept the key") as caught:
        estimate(run, pilot=10)
    assert "sk-very-secret" not in str(caught.value)
    assert len(api.received) == 1
    assert not (run.folder / "estimate.json").exists()


def test_answers_without_token_counts_are_named(load, api):
    answer = api.completion("\\boxed{1}")
    del answer["usage"]
    api.reply = lambda body: (200, {}, answer)
    silent = config()
    silent["teachers"]["t"] = {"kind": "openai", "model": "m", "base_url": api.url}
    notes = estimate(load(silent), pilot=5)["notes"]
    assert any("came without token counts" in note for note in notes)


def test_the_truth_is_printed_beside_the_estimate(load, capsys):
    run = load(config())
    estimate(run, pilot=20)
    generate(run)
    capsys.readouterr()
    stage_summary("generate", run)
    printed = capsys.readouterr().out
    assert printed.startswith("estimated, and bought since")
    manifest = json.loads((run.folder / "generate" / "manifest.json").read_text())
    assert re.search(rf"calls .* {manifest['counts']['bought']} ", printed)
    assert max(map(len, printed.splitlines())) <= 80


def test_without_an_estimate_nothing_is_printed(load, capsys):
    run = load(config())
    generate(run)
    capsys.readouterr()
    stage_summary("generate", run)
    assert capsys.readouterr().out == ""


def test_what_is_printed(load, capsys):
    run = load(config() | {"budget": {"usd": 0.1}})
    estimate_summary(estimate(run))
    printed = capsys.readouterr().out
    assert "still to buy: the answers to 120 of 120 questions" in printed
    assert re.search(r"calls +120 +\? +480 +bounds", printed)
    assert "budget.usd $0.10: will be reached" in printed
    assert max(map(len, printed.splitlines()[:9])) <= 80


@pytest.mark.slow
def test_the_command(load, distill, write_config):
    path = write_config(config())
    done = distill("estimate", path, "--pilot", 10)
    assert done.returncode == 0, done.stderr
    assert "pilot: 10 questions" in done.stdout
    assert "95%" in done.stdout
    few = distill("estimate", path, "--pilot", 2)
    assert few.returncode == 2
    bare = copy.deepcopy(config())
    del bare["generate"], bare["teachers"], bare["filters"]
    nothing = distill("estimate", write_config(bare))
    assert nothing.returncode == 2
    assert "nothing to estimate" in nothing.stderr


# --- the statistics ---


@pytest.mark.slow
def test_the_interval_holds_the_sum_of_the_rest_about_as_often_as_it_says():
    draw, inside, tries = np.random.default_rng(0), 0, 200
    for seed in range(tries):
        lengths = draw.lognormal(6, 0.6, 330)
        sample, rest = lengths[:30].reshape(-1, 1), lengths[30:].sum()
        draws, expected = sums_of_more(sample, 300, np.zeros(1), np.full(1, np.inf), seed)
        figure = interval(draws[:, 0], float(expected[0]), 30)
        inside += figure.low <= rest <= figure.high
    assert 0.88 <= inside / tries <= 0.99


def test_a_sample_that_is_all_alike_leaves_doubt_where_there_can_be_any():
    alike = np.ones((20, 2))
    draws, expected = sums_of_more(alike, 100, np.array([100.0, 100]), np.array([400.0, 100]), 0)
    open_, fixed = (interval(draws[:, i], float(expected[i]), 20) for i in (0, 1))
    assert open_.low == 100
    assert 120 < open_.high < 160
    assert (fixed.low, fixed.high) == (100, 100)


def test_the_mean_and_the_ratio_have_intervals_that_hold():
    draw, inside = random.Random(1), [0, 0]
    for seed in range(100):
        below = [draw.uniform(10, 50) for _ in range(25)]
        above = [2 * value * draw.lognormvariate(0, 0.2) for value in below]
        mean, ratio = mean_of(below, seed), ratio_of(above, below, seed)
        inside[0] += mean.low <= 30 <= mean.high
        inside[1] += ratio.low <= 2 * np.exp(0.02) <= ratio.high
    assert min(inside) >= 88
    with pytest.raises(ValueError, match="4 values"):
        mean_of([1, 2, 3, 4], 0)


def test_figures_multiply_and_add_with_their_limits():
    calls, each = Range(10, None, 20), Range(2, 3, 4, "95%")
    assert calls * each == Range(20, None, 80, "bounds")
    assert calls + exactly(1) == Range(11, None, 21, "bounds")
    assert exactly(0) * Range(None, None, None) == Range(0, 0, 0, "bounds")
