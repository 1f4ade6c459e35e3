"""`distill filter` and `distill why`, as a user runs them."""

import contextlib
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from synth.core.errors import UserError
from synth.stages.import_traces import config_for

ROWS = [
    {"question": "What is 2 + 3?", "response": "2 + 3 = 5, so \\boxed{5}.", "answer": "5"},
    {"question": "What is 2 + 4?", "response": "2 + 4 = 7, so \\boxed{7}.", "answer": "6"},
    {"question": "What is 9 - 4?", "response": "Nine less four is \\boxed{5}.", "answer": "5"},
    {"question": "What is 9 - 4?", "response": "Nine less four is \\boxed{5}.", "answer": "5"},
    {"question": "What is 3 * 4?", "response": "Three times four is"},
]


@pytest.fixture
def data(tmp_path):
    def write(rows=ROWS, name="traces.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def rows_of(run, split):
    import pyarrow.parquet as pq

    files = sorted((run / "filter" / "data").glob(f"{split}-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


FILTERS = "filters=[truncated, math_answer, exact_dedup]"


@pytest.mark.slow
def test_a_data_set_goes_through_the_shipped_filters(distill, data, tmp_path):
    done = distill("filter", data(), FILTERS, "--explain", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "kept 2 of 5 traces" in done.stdout
    assert "by source" in done.stdout and "words and time" in done.stdout
    run = tmp_path / "runs" / "filter-traces"
    assert len(rows_of(run, "kept")) == 2 and len(rows_of(run, "rejected")) == 3
    wrong = next(row for row in rows_of(run, "rejected") if "wrong" in str(row["verdicts"]))
    why = distill("why", str(run), wrong["id"], cwd=tmp_path)
    assert why.returncode == 0
    assert "dropped by a filter, the first of them math_answer" in why.stdout
    assert "drop math_answer  wrong answer: got 7, expected 6" in why.stdout
    assert "keep truncated" in why.stdout
    both = distill("why", str(run), wrong["task"]["id"], cwd=tmp_path)
    assert wrong["id"] in both.stdout
    unknown = distill("why", str(run), wrong["id"][:-2], cwd=tmp_path)
    assert unknown.returncode == 2 and wrong["id"] in unknown.stderr


@pytest.mark.slow
def test_a_tagged_record_stays_with_its_verdict(distill, data, tmp_path):
    done = distill("filter", data(), FILTERS, "filters.math_answer.action=tag", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tagged" in done.stdout
    rows = rows_of(tmp_path / "runs" / "filter-traces", "kept")
    said = [[v["keep"] for v in row["verdicts"] if v["filter"] == "math_answer"] for row in rows]
    assert [False] in said


@pytest.mark.slow
def test_a_filter_that_is_off_says_nothing(distill, data, tmp_path):
    done = distill("filter", data(), FILTERS, "filters.math_answer.action=off", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "math_answer" not in done.stdout


@pytest.mark.parametrize(
    "name, wants",
    [
        ("quickstart", ("quickstart", [])),
        ("my/run.yaml", ("my/run.yaml", [])),
        ("org/set", ("filter-only", ["name=filter-set", 'traces=[{"source": "hub", "dataset": "org/set"}]'])),
    ],
)  # fmt: skip
def test_what_is_filtered(name, wants):
    assert config_for(name) == wants


def test_the_folder_of_a_run_is_not_taken_for_data(tmp_path):
    (tmp_path / "generate").mkdir()
    (tmp_path / "generate" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"is the folder of a run; give the config .*generate"):
        config_for(str(tmp_path))
    assert config_for(str(tmp_path / "generate"))[0] == "filter-only"


def test_a_file_that_is_not_there_is_no_data_set(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        config_for("data/none/traces.jsonl")


@pytest.mark.parametrize(
    "section, says",
    [
        ({"traces": None}, "give questions (tasks.train), or traces"),
        ({"generate": {"prompt": {"template": "plain"}}, "teachers": {"a": {"kind": "fake"}}}, "two ways to the same end"),
        ({"tasks": {"train": [{"source": "inline", "tasks": []}]}}, "beside traces, tasks has eval alone"),
    ],
)  # fmt: skip
def test_traces_and_questions_do_not_mix(distill, write_config, data, section, says):
    config = {"name": "x", "traces": [{"source": "file", "path": data()}], "filters": ["truncated"]}
    done = distill("validate", write_config(config | section))
    assert done.returncode == 2 and says in done.stderr


@pytest.mark.slow
def test_evaluation_questions_beside_traces_reach_the_filters(
    distill, write_config, data, tmp_path
):
    config = {
        "name": "x", "runs": str(tmp_path / "runs"),
        "traces": [{"source": "file", "path": data()}],
        "tasks": {"eval": [{"source": "inline", "tasks": [{"question": "What is 3 * 4?", "answer": 12}]}]},
        "filters": ["overlap"],
    }  # fmt: skip
    done = distill("filter", write_config(config))
    assert done.returncode == 0, done.stderr
    assert "overlaps evaluation 1" in done.stdout


def hashes(run):
    files = sorted((run / "filter" / "data").glob("*.parquet"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.slow
def test_two_kills_leave_the_same_files_byte_for_byte(distill, data, tmp_path):
    draw = random.Random(1)
    words = [f"word{n}" for n in range(300)]
    rows = []
    for number in range(3000):
        text = " ".join(draw.choices(words, k=200))
        if number % 5 == 4:
            text = rows[-1]["response"].rpartition(" ")[0] + " end"
        answer = draw.choice(["\\frac{1}{2}", "x^2", str(number)])
        given = draw.choice([answer, "0.5", "x \\cdot x"])
        rows.append(
            {
                "question": f"q{number // 3}",
                "response": f"{text} \\boxed{{{given}}}",
                "answer": answer,
            }
        )
    path = data(rows)
    options = ["filters=[truncated, repetition, math_answer, near_dedup, exact_dedup]"]
    whole = tmp_path / "whole"
    whole.mkdir()
    assert distill("filter", path, *options, cwd=whole).returncode == 0
    broken = tmp_path / "broken"
    broken.mkdir()
    ledger = broken / "runs" / "filter-traces" / "verdicts.sqlite"
    for pieces in (8, 30):
        process = subprocess.Popen(
            [sys.executable, "-m", "synth", "filter", path, *options],
            cwd=broken, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        judged = 0
        while judged < pieces and process.poll() is None:
            time.sleep(0.02)
            with (
                contextlib.suppress(sqlite3.Error),
                contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db,
            ):
                judged = db.execute("SELECT count(*) FROM outcomes").fetchone()[0]
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
        assert not (broken / "runs" / "filter-traces" / "filter").exists()
    assert distill("filter", path, *options, cwd=broken).returncode == 0
    assert hashes(broken / "runs" / "filter-traces") == hashes(whole / "runs" / "filter-traces")
