"""What release 0.1.0 made is taken up as it is: its run folder, its stores, its fingerprints.

`tests/data/run-0.1.0` is a whole run that the code of 0.1.0 made with a server on loopback that is
gone: a question asked again would fail. `tests/data/dry-run-0.1.0.json.gz` is what its code wrote for
the config below; `python tests/test_compatibility.py` writes it anew, where a change is wanted.
"""

import gzip
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from filters.engine.filter import FilterSpec, load_filters
from synth.core import plugins

DATA = Path(__file__).parent / "data"
RUN = DATA / "run-0.1.0"
DRY_RUN = DATA / "dry-run-0.1.0.json.gz"
FINGERPRINTS = DATA / "fingerprints-0.1.0.json"
DRY_CONFIG = {
    "name": "fixed",
    "description": "A fixed dry run <b>of 0.1.0</b>.",
    "seed": 5,
    "tasks": {
        "train": [{
            "source": "inline", "name": "sums",
            "tasks": [{"question": f"What is {a} + {b}?", "answer": a + b, "metadata": {"difficulty": a % 3}} for a in range(8) for b in range(a, 8)],
        }],
        "holdout": 6,
    },
    "teachers": {
        "made-up": {"kind": "fake", "accuracy": 0.6, "truncated": 0.1, "untagged": 0.1, "refused": 0.02},
        "second": {"kind": "fake", "accuracy": 0.4, "seed": 2, "weight": 2, "price": {"input": 1, "output": 2}},
    },
    "generate": {
        "prompt": {"template": "boxed.en"}, "route": "weights", "concurrency": 1,
        "sampling": {"temperature": 0.7, "max_tokens": 512},
        "samples": {"max": 4, "until_verified": 2}, "truncation": {"policy": "drop"},
    },
    "filters": [
        "overlap", "truncated", {"think_format": {"final_answer": "boxed"}},
        {"repetition": {"action": "tag"}}, "refusal", "boilerplate",
        "language", "secrets", {"regex": {"must_not": ["So it is [0-9]*7\\b"], "on": "reasoning"}},
        "math_answer", {"verify": {"by": ["math_answer"]}}, "contradiction", "exact_dedup",
        {"near_dedup": {"on": "question"}}, "decontaminate", {"pass_rate": {"verifier": "math_answer", "pass_rate_max": 1.0}},
        {"length_sample": {"total": 20}},
    ],
}  # fmt: skip


def command(folder, *arguments):
    environment = {**os.environ, "COLUMNS": "100", "OPENAI_API_KEY": "of-nobody"}
    return subprocess.run(
        [sys.executable, "-m", "synth", *map(str, arguments)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def count(database, query):
    with sqlite3.connect(database) as connection:
        return connection.execute(query).fetchall()


def without_times(value):
    """JSON without what differs from run to run: seconds, and hashes with seconds in them."""
    if isinstance(value, dict):
        gone = {"seconds", "latency_s", "content", "tasks", "generate", "eval"}
        return {
            k: without_times(v) for k, v in value.items() if k not in gone or isinstance(v, dict)
        }
    return [without_times(v) for v in value] if isinstance(value, list) else value


def page_without_times(page):
    """The report without durations, rates, dates and the version."""
    page = re.sub(r"\d[\d,.]* (ms|s|min|h)\b( \d+ (s|min)\b)?", "TIME", page)
    page = re.sub(r"[\d,.]+(/s| tokens/s| tokens a second)", "RATE", page)
    return re.sub(r"\d{4}-\d\d-\d\d[T \d:.]*( UTC|Z)?", "DATE", page)


def dry_run(folder):
    """What the fixed dry run leaves: the lines that it prints, its shards, manifests, and page."""
    import pyarrow.parquet as pq

    (folder / "config.yaml").write_text(json.dumps(DRY_CONFIG))
    done = command(folder, "run", "config.yaml")
    assert done.returncode in (0, 3), done.stderr
    run = folder / "runs" / "fixed"
    shards, manifests = {}, {}
    for path in sorted(run.glob("*/data/*.parquet")):
        shards[str(path.relative_to(run))] = without_times(pq.read_table(path).to_pylist())
    for path in sorted(run.glob("*/manifest.json")):
        manifests[str(path.relative_to(run))] = without_times(json.loads(path.read_text()))
    keys = count(
        folder / "runs" / "responses.sqlite", "SELECT key, teacher FROM responses ORDER BY key"
    )
    return {
        "printed": page_without_times(done.stdout).splitlines(),
        "keys": [list(row) for row in keys],
        "shards": shards,
        "manifests": manifests,
        "report": page_without_times((run / "report.html").read_text()).splitlines(),
    }


def fingerprints():
    """Of every filter, with the least options that it takes."""
    needed = {
        "difficulty": {"teacher": "t", "pass_rate_max": 0.9}, "diversity": {"total": 9}, "judge": {"teacher": "t"},
        "length": {"tokens_max": 9}, "length_sample": {"total": 9}, "pass_rate": {"pass_rate_min": 0.1},
        "quota": {"max": 9}, "regex": {"must": ["x"]}, "reward_model": {"model": "m"},
        "toxicity": {"model": "m"}, "verify": {"by": ["math_answer", "choice"]},
    }  # fmt: skip
    filters = load_filters(
        [FilterSpec(name, needed.get(name, {})) for name in plugins.names("filter")]
    )
    return {loaded.name: loaded.fingerprint(around={"seed": 1}) for loaded in filters}


@pytest.fixture
def old_run(tmp_path):
    """A copy of the run of 0.1.0, so that it may be written to."""
    return shutil.copytree(RUN, tmp_path / "old")


def contents(folder):
    """What lies in a run's folder: shards, student, manifests; not the stores, which are looked into."""
    wanted = {".parquet", ".json", ".jsonl", ".safetensors", ".arrow", ".jinja"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in wanted
    }


def paid_and_judged(folder):
    responses = count(
        folder / "runs" / "responses.sqlite", "SELECT id, key, created FROM responses"
    )
    outcomes = count(
        folder / "runs" / "before" / "verdicts.sqlite",
        "SELECT filter, data, piece, rows FROM outcomes ORDER BY filter, data, piece",
    )
    return responses, outcomes


@pytest.mark.slow
def test_a_finished_run_of_before_is_done(old_run):
    before, spent = contents(old_run), paid_and_judged(old_run)
    done = command(old_run, "run", "config.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done before, nothing changed") == 5
    assert contents(old_run) == before
    assert paid_and_judged(old_run) == spent
    assert len(spent[0]) == 34
    assert len(spent[1]) == 9


@pytest.mark.slow
def test_what_was_paid_for_and_judged_before_is_taken_up(old_run):
    before, spent = contents(old_run), paid_and_judged(old_run)
    run = old_run / "runs" / "before"
    for stage in ("tasks", "generate", "filter", "evaluate"):
        shutil.rmtree(run / stage)
    done = command(old_run, "run", "config.yaml")
    assert done.returncode == 0, done.stderr
    assert "train: done before, nothing changed" in done.stdout
    assert paid_and_judged(old_run) == spent
    after = contents(old_run)
    assert after.keys() == before.keys()
    differ = {name for name in before if after[name] != before[name]}
    assert {Path(name).name for name in differ} <= {"manifest.json"}  # the seconds of this run
    for name in differ:
        assert without_times(json.loads(after[name])).keys() == json.loads(before[name]).keys() - {
            "seconds", "content",
        }  # fmt: skip


@pytest.mark.slow
def test_a_fixed_dry_run_writes_what_it_wrote_before(tmp_path):
    expected = json.loads(gzip.decompress(DRY_RUN.read_bytes()))
    result = dry_run(tmp_path)
    for part, value in expected.items():
        assert result[part] == value, part


def test_the_fingerprints_of_all_filters_are_those_of_before():
    expected = json.loads(FINGERPRINTS.read_text())
    assert fingerprints() == expected


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        text = json.dumps(dry_run(Path(name)), indent=1, ensure_ascii=False)
    DRY_RUN.write_bytes(gzip.compress(text.encode(), mtime=0))
    FINGERPRINTS.write_text(json.dumps(fingerprints(), indent=1) + "\n")
