"""Alarms on money that burns: nothing is kept, or no reference is there; and none that is false."""

import json

import pytest

from synth.config.generate import Generate, Samples
from synth.core.errors import Unfinished, UserError
from synth.core.record import Verdict
from tests.helpers.scripted_teacher import Scripted, ask_with, run, tasks


def verdicts(*kinds):
    """A check that drops answer N for the reason of its turn; None keeps it, ? cannot tell."""

    def check(record):
        kind = kinds[int(record.task.answer) % len(kinds)]
        if kind is None:
            return [Verdict("f", True)]
        if kind == "?":
            return [Verdict("f", None, "cannot tell: no sandbox")]
        return [Verdict("f", False, kind)]

    return check


def ask(teacher, *kinds, alarm="stop", **more):
    return ask_with(teacher, check=verdicts(*kinds), alarm=alarm, concurrency=4, **more)


def test_none_kept_of_fifty_stops_before_more_is_bought_and_counts_the_reasons(tmp_path):
    teacher = Scripted(lambda r, n: "x")
    with pytest.raises(Unfinished) as stop:
        run(ask(teacher, "wrong: a", "wrong: b", "no box"), tasks(500), tmp_path / "s")
    assert 50 <= len(teacher.asked) <= 50 + 8
    assert "kept none of the first 50 answers (f: wrong 3" in str(stop.value)
    assert "f: no box 1" in str(stop.value)
    assert "generate.alarm: warn goes on" in str(stop.value)


def test_a_rerun_over_the_stored_answers_buys_nothing_before_it_stops_again(tmp_path):
    for _ in range(2):
        teacher = Scripted(lambda r, n: "x")
        with pytest.raises(Unfinished, match="kept none"):
            run(ask(teacher, "wrong"), tasks(500), tmp_path / "s")
    assert len(teacher.asked) <= 8


def test_it_warns_once_and_goes_on_where_the_config_says_so(tmp_path, capsys):
    asked = ask(Scripted(lambda r, n: "x"), "wrong", alarm="warn")
    _, counts = run(asked, tasks(150), tmp_path / "s")
    assert counts.bought == 150
    assert len(counts.warnings) == 1
    assert capsys.readouterr().err.count("kept none of the first 50 answers") == 1


@pytest.mark.parametrize(
    "kinds",
    [
        ["wrong"] * 49 + [None] + ["wrong"] * 100,  # the fiftieth is kept
        ["?"],  # nobody can tell: not a drop
        ["wrong"] * 49 + ["?"] * 151,  # too few are dropped
    ],
)
def test_no_false_stop(kinds, tmp_path):
    asked = ask(Scripted(lambda r, n: "x"), *kinds)
    # One at a time: the fiftieth answer is judged before the fifty-first.
    asked.concurrency = 1
    assert run(asked, tasks(200), tmp_path / "s")[1].bought == 200


def test_many_answers_to_a_few_hard_questions_are_no_alarm(tmp_path):
    hard_first = ask(Scripted(lambda r, n: "x"), *["wrong"] * 5, *[None] * 45)
    hard_first.samples, hard_first.concurrency = Samples(max=16), 1
    assert run(hard_first, tasks(50), tmp_path / "s")[1].bought == 800


def test_off_and_what_is_off_in_older_yaml(tmp_path):
    asked = ask(Scripted(lambda r, n: "x"), "wrong", alarm="off")
    assert run(asked, tasks(120), tmp_path / "s")[1].warnings == []
    prompt = {"template": "plain"}
    assert Generate.model_validate({"prompt": prompt, "alarm": False}).alarm == "off"
    decisive = Generate.model_validate({"prompt": prompt, "alarm": "warn"}).decisive()
    assert decisive == Generate.model_validate({"prompt": prompt}).decisive()


def config(rows, filters, **generate):
    return {
        "name": "r",
        "tasks": {"train": [{"source": "inline", "tasks": rows}]},
        "teachers": {"t": {"kind": "fake"}},
        "generate": {"prompt": {"template": "boxed.en"}, **generate},
        "filters": filters,
    }


def rows(without, of):
    return [
        {"question": f"{n} + 1?", **({} if n < without else {"answer": n + 1})} for n in range(of)
    ]


@pytest.fixture
def generate(tmp_path, monkeypatch):
    """Runs tasks and generation; returns what was said."""
    from synth.config.validate import load_run
    from synth.stages.pipeline import do_stage

    monkeypatch.chdir(tmp_path)

    def go(config):
        said = []
        for stage in ("tasks", "generate"):
            do_stage(stage, load_run(config)[0], said.append)
        counts = json.loads((tmp_path / "runs/r/generate/manifest.json").read_text())["counts"]
        return "\n".join(said), counts

    return go


@pytest.mark.parametrize(
    "filters",
    [
        ["math_answer"],
        ["truncated", "exact"],
        ["choice"],
        ["code_tests"],
        [{"verify": {"by": ["math_answer", "exact"]}}],
    ],
)
def test_without_references_nothing_is_bought(filters, generate, tmp_path):
    with pytest.raises(UserError) as error:
        generate(config(rows(6, of=6), filters))
    name = next(iter(filters[-1])) if isinstance(filters[-1], dict) else filters[-1]
    assert f"6 of 6 questions can never pass the filter {name}" in str(error.value)
    assert "generate.vote" in str(error.value)
    from synth.store.responses import ResponseStore

    if (tmp_path / "runs/responses.sqlite").exists():
        with ResponseStore(tmp_path / "runs/responses.sqlite") as store:
            assert store.count() == 0


def test_a_few_questions_without_references_are_said_and_asked(generate):
    said, counts = generate(config(rows(2, of=6), ["math_answer"]))
    assert "warning: 2 of 6 questions can never pass the filter math_answer" in said
    assert counts["bought"] == 6


@pytest.mark.parametrize(
    ("filters", "more"),
    [
        ([{"math_answer": {"cannot_tell": "tag"}}], {}),
        ([{"math_answer": {"action": "tag"}}], {}),
        (["truncated", "think_format"], {}),
        (["math_answer"], {"vote": {"agree": 2}, "samples": {"max": 3}}),
        (["math_answer"], {"alarm": "off"}),
    ],
)
def test_where_it_does_not_matter_nothing_is_said(filters, more, generate):
    said, counts = generate(config(rows(6, of=6), filters, **more))
    assert "can never pass" not in said
    assert counts["bought"] >= 6
