"""The report: whole without network or script, honest about what is missing, hard to fool."""

import json
import subprocess
import sys

import pytest

from synth.config.run import Run
from synth.core.errors import UserError
from synth.core.files import write_json
from synth.report.html import write_report
from synth.report.page_format import MOST_CHARACTERS, clipped, plain
from synth.report.run_state import config_changes, headline
from tests.helpers.pages import Page
from tests.helpers.run_folders import (
    HOSTILE,
    evaluated,
    evaluated_often,
    put_evaluate,
    put_filter,
    put_generate,
    put_tasks,
    put_train,
    row,
    trace,
)

CSP = "default-src 'none'; style-src 'unsafe-inline'"


@pytest.fixture
def run(tmp_path):
    return Run.model_validate(
        {
            "name": "r",
            "runs": str(tmp_path),
            "description": "What it is for.",
            "tasks": {"train": [{"source": "inline", "tasks": []}], "holdout": 2},
            "teachers": {"big": {"kind": "openai", "model": "big-7b"}},
            "generate": {"prompt": {"template": "boxed.en"}},
            "filters": ["truncated", "math_answer"],
            "student": {"model": "small", "prompt": {"template": "boxed.en"}},
            "train": {},
            "evaluate": {},
        }
    )


def page_of(run):
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.fixture
def finished(run):
    records = [trace(1), trace(2, "wrong answer: 9"), trace(3)]
    put_tasks(run)
    put_generate(run, records)
    put_filter(run, records)
    put_train(run)
    put_evaluate(run)
    return run


# --- what it says ---------------------------------------------------------------------------------


def test_finished_run_says_its_result_first(finished):
    page = page_of(finished)
    sentence = (
        "The student answers 42.0% of 200 held-out questions (95% interval 35.4 to 48.9), "
        "4.0% before training: +38.0 points (31.0 to 45.0)."
    )
    assert page.words.index(sentence) < page.words.index("What was asked")
    assert "not done" not in page.words
    assert "Out of date" not in page.words
    assert "1 questions are answered better than before, 0 worse, 1 as before" in page.words
    assert "wrong → right" in page.words
    assert {"before it said 7", "after it said 2"} <= {block.strip() for block in page.blocks}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.02, 0.03, "+0.5 points (−2.0 to +3.0), no measurable change."),
        (0.0, 0.03, "+0.5 points (+0.0 to +3.0), no measurable change."),
        (-0.09, -0.01, "+0.5 points (−9.0 to −1.0)."),
        (0.002, 0.03, "+0.5 points (0.2 to 3.0)."),
    ],
)
def test_interval_with_zero_is_no_change(low, high, said):
    done = {"evaluate": evaluated(difference=0.005, low=low, high=high)}
    assert headline(None, done).endswith(said)


def test_student_that_was_not_trained():
    one = evaluated()
    del one["results"]["after"]
    one["difference"] = None
    said = headline(None, {"evaluate": one})
    assert said.startswith("The student answers 4.0% of 200") and said.endswith("was not trained.")


def test_several_answers_groups_and_the_gap_are_shown(finished):
    path = finished.folder / "evaluate" / "manifest.json"
    write_json(path, json.loads(path.read_text()) | evaluated_often())
    words = page_of(finished).words
    assert "+31.0 to +45.0, p < 0.001 (paired permutation test)." in words
    assert "pass@2 pass@4 majority@4" in words
    assert "student after 40.0% 25.0% to 60.0% 50.0% 25.0% to 60.0% 40.0% 10.0% to 70.0%" in words
    assert "drawn, ± 0.2%" in words
    assert "By difficulty" in words
    assert "By source" not in words
    assert "1 100 30.0% 20.0% to 90.0%" in words
    assert "+66.0 points, 95% interval +60.0 to +72.0. Training closed 57.6% of it" in words


def test_settings_are_said_in_the_words_of_a_config():
    teachers = {"big": {"model": "x", "device": None, "trust_remote_code": False}}
    assert plain(teachers) == "big (model x, trust_remote_code false)"
    assert plain([1, "a"]) == "1, a" and plain([]) == "none" and plain(2.0) == "2.0"


def test_a_gap_that_may_be_none_has_no_share(finished):
    path = finished.folder / "evaluate" / "manifest.json"
    closed = row(None, None, None, gap=0.1, gap_low=-0.1, gap_high=0.3, why="so it is")
    write_json(path, json.loads(path.read_text()) | evaluated_often() | {"gap_closed": closed})
    assert "No share of it can be said to be closed: so it is." in page_of(finished).words


def benchmark(value, stderr):
    low, high = (None, None) if stderr is None else (value - 1.96 * stderr, value + 1.96 * stderr)
    metric = {"metric": "acc", "filter": "none", "value": value, "stderr": stderr}
    task = {"questions": 20, "metrics": [metric | {"low": low, "high": high}]}
    return {"version": "0.4", "tasks": {f"sums {HOSTILE}": task}}


def test_benchmarks_and_models_of_a_chain_are_shown(finished, capsys):
    from synth.report.terminal import stage_summary

    path = finished.folder / "evaluate" / "manifest.json"
    manifest = evaluated_often()
    results = manifest["results"]
    results["chain_big"] = results["teacher"] | {"title": "big (chain)"}
    results["before"]["lm_eval"] = benchmark(0.25, 0.05)
    results["after"]["lm_eval"] = benchmark(None, None)
    inputs = {"evaluate": {"lm_eval_limit": 20}}
    write_json(path, json.loads(path.read_text()) | manifest | {"inputs": inputs})
    page = page_of(finished)
    assert "big (chain) 70.0%" in page.words
    assert ("rect", "class", "chain") in page.attributes
    assert f"sums {HOSTILE} acc 20 0.25 0.152 to 0.348 –" in page.words
    assert "Only the first 20 questions of each" in page.words
    stage_summary("evaluate", finished)
    said = " ".join(capsys.readouterr().out.split())
    assert "acc 20 0.2500 ± 0.0500 -" in said
    assert "big (chain)" in said


@pytest.mark.parametrize("often", [True, False])
def test_the_terminal_shows_what_the_page_shows(finished, capsys, often):
    from synth.report.terminal import stage_summary

    path = finished.folder / "evaluate" / "manifest.json"
    manifest = evaluated_often() if often else evaluated()
    write_json(path, json.loads(path.read_text()) | manifest)
    stage_summary("evaluate", finished)
    said = " ".join(capsys.readouterr().out.split())
    assert "after - before, paired: +38.0 points, 95% interval +31.0 to +45.0" in said
    for words in (
        "in form", "pass@2 pass@4 majority@4", "50.0% (25.0 to 60.0)", "p < 0.001",
        "teacher - before: +66.0 points; 57.6% (50.0 to 65.0) of it was closed", HOSTILE[:40],
    ):  # fmt: skip
        assert (words in said) is (often or words == "in form")


def test_empty_folder_gives_a_page_that_says_so(run):
    page = page_of(run)
    assert "Nothing has been done yet." in page.words
    for section in ("Questions", "Generation", "Filtering", "Lengths", "Training", "Evaluation"):
        assert f"{section}: not done" in page.words
    assert "svg" not in page.tags


def test_each_stage_alone_is_enough(run):
    records = [trace(1), trace(2, "wrong answer: 9")]
    put_tasks(run)
    assert "1 questions are ready; no teacher has been asked." in page_of(run).words
    put_generate(run, records)
    page = page_of(run)
    assert "The teachers gave 2 traces; they have not been filtered." in page.words
    assert "Not filtered yet" in page.words
    put_filter(run, records)
    assert "1 of 2 traces were kept; no student has been trained." in page_of(run).words
    put_train(run)
    assert "trained on 7 traces; it has not been evaluated." in page_of(run).words


def test_skipped_rows_are_grouped(finished):
    words = page_of(finished).words
    assert "in the evaluation as … data.jsonl:3 2" in words
    assert "overlap" not in words and "math_answer: in the evaluation" in words


def test_stage_not_asked_for_is_told_from_one_not_done(run):
    run = run.model_copy(update={"train": None, "evaluate": None})
    words = page_of(run).words
    assert "Training: not done; this config does not ask for it." in words
    assert "Generation: not done. " in words


# --- no figure that was not measured --------------------------------------------------------------


def test_no_price_gives_no_dollars(finished):
    words = page_of(finished).words
    assert "$" not in words
    assert "no price set" in words


def test_prices_are_summed_over_traces(run):
    records = [trace(n, cost_usd=0.25) for n in range(4)]
    put_tasks(run)
    put_generate(run, records)
    put_filter(run, records)
    words = page_of(run).words
    assert "$1.0000" in words and "$0.2500 a kept trace" in words


def test_price_of_some_traces_is_said_to_be_that(run):
    put_tasks(run)
    put_generate(run, [trace(1, cost_usd=0.25), trace(2)])
    assert "$0.2500 for 1 of 2 traces; no price for the others" in page_of(run).words


def test_unknown_tokens_are_a_dash_with_a_reason(run):
    put_tasks(run)
    put_generate(run, [trace(1, completion_tokens=None), trace(2)])
    page = page_of(run)
    titles = [value for tag, name, value in page.attributes if name == "title" and tag == "span"]
    assert "not every endpoint said how many" in titles
    assert "1 traces are not in these figures" in page.words


def test_manifest_that_lacks_figures_gives_dashes(run):
    write_json(run.folder / "train" / "manifest.json", {"examples": 5})
    page = page_of(run)
    assert "No loss curve" in page.words
    assert "0 tokens a second" not in page.words


def test_dashes_stand_in_text_and_never_inside_a_tag(finished):
    for _, name, value in page_of(finished).attributes:
        assert "<" not in name + value


# --- the state of the run -------------------------------------------------------------------------


def test_what_was_made_from_older_data_is_marked(finished):
    put_generate(finished, [trace(1), trace(5)])
    words = page_of(finished).words
    assert "The figures above were measured on an earlier version" in words
    assert "filter out of date" in words
    assert "Not filtered yet" in words  # the old verdicts are not shown beside the new traces


@pytest.mark.parametrize("stage", ["filter", "train"])
def test_headline_of_an_unevaluated_run_is_marked_too(run, stage):
    put_tasks(run)
    put_generate(run, [trace(1)])
    put_filter(run, [trace(1)])
    if stage == "train":
        put_train(run)
    assert "earlier version" not in page_of(run).words
    put_generate(run, [trace(2)])
    assert "earlier version" in page_of(run).words


def test_changed_config_is_said(finished):
    finished.generate.sampling.temperature = 0.3
    page = page_of(finished)
    assert "generate: generate.sampling.temperature: not set -> 0.3" in page.words


def test_fake_teacher_is_a_dry_run(run):
    run.teachers["big"] = {"kind": "fake"}
    assert "This is a dry run." in page_of(run).words


def test_password_in_an_address_is_left_out(run):
    run.teachers["big"]["base_url"] = "https://me:secret@host/v1"
    text = "".join(page_of(run).text)
    assert "https://…@host/v1" in text and "secret" not in text


def test_damaged_shard_is_the_users_to_mend(finished):
    next((finished.folder / "filter" / "data").glob("kept-*")).write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a sound shard"):
        write_report(finished)


# --- hostile text ---------------------------------------------------------------------------------


def test_page_asks_for_nothing_and_runs_nothing(finished):
    page = page_of(finished)
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & set(page.tags)
    assert ("meta", "content", CSP) in page.attributes
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "srcset", "xlink:href", "action")
        assert tag != "a" or name != "href" or value[1:] in ids
    assert "url(" not in write_report(finished).read_text()


def test_text_of_models_is_shown_and_not_obeyed(run):
    marked = f"{HOSTILE} \u202egnp.exe\u202c nul\x00 esc\x1b end"
    evil = trace(1, f"<b>wrong</b>: {HOSTILE}", reasoning=marked, answer=marked, model=HOSTILE)
    evil.task.question = evil.task.answer = evil.task.source = evil.generation.teacher = marked
    evil.generation.finish_reason = HOSTILE
    evil.messages = [{"role": HOSTILE, "content": marked}]
    put_tasks(run)
    put_generate(run, [evil], failed={HOSTILE: 1}, retried={HOSTILE: 1})
    put_filter(run, [evil])
    run.description = marked
    html = write_report(run).read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags and "49" not in page.words
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert not set("\x00\x1b\u202e\u202c") & set(html)
    shown = f"{HOSTILE} ⟨U+202E⟩gnp.exe⟨U+202C⟩ nul␀ esc␛ end"
    assert sum(block.strip() == shown for block in page.blocks) >= 4


def test_lone_surrogates_of_a_manifest_do_not_break_the_page(finished):
    path = finished.folder / "evaluate" / "manifest.json"
    path.write_text(path.read_text().replace("student after", "student \\ud800 after"))
    assert "student \ufffd after" in page_of(finished).words


def test_long_text_is_clipped(run):
    put_tasks(run)
    put_generate(run, [trace(1, answer="x" * 1_000_000)])
    path = write_report(run)
    assert f"… {1_000_000 - MOST_CHARACTERS:,} more characters" in path.read_text(encoding="utf-8")
    assert path.stat().st_size < 100_000
    assert clipped("x" * MOST_CHARACTERS) == "x" * MOST_CHARACTERS


def test_many_kinds_of_reasons_do_not_fill_the_page(run):
    put_tasks(run)
    put_generate(run, [trace(1)], failed={f"reason {n}": 1 for n in range(5000)})
    assert "and 4988 more kinds" in page_of(run).words


# --- the file -------------------------------------------------------------------------------------


def test_equal_runs_give_equal_pages_and_no_half_of_one(finished):
    path = write_report(finished)
    first = path.read_bytes()
    assert write_report(finished) == path == finished.folder / "report.html"
    assert path.read_bytes() == first
    assert list(finished.folder.glob("*.partial")) == []


def test_report_loads_neither_torch_nor_the_other_packages():
    code = (
        "import sys, synth.report.html\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'sft', 'filters')"
        " if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_what_the_config_changed_is_said_as_the_stages_say_it(run):
    inputs = {"train": run.train.model_dump(mode="json"), "student": run.student.model_dump()}
    done = {stage: None for stage in ("tasks", "generate", "train", "evaluate")}
    done["train"] = {"inputs": inputs}
    assert list(config_changes(run, done)) == []
    run.train.epochs, run.train.seed, run.student.model = 7, 5, "big"
    before = {**inputs["train"], "seed": None}
    done["train"] = {"inputs": {**inputs, "train": before}}
    assert list(config_changes(run, done)) == [
        "train: student.model: small -> big",
        f"train: train.epochs: {before['epochs']} -> 7.0",
        "train: train.seed: not set -> 5",
    ]
