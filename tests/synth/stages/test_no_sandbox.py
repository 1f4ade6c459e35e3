"""Without a sandbox code is left undecided, all else is judged, and a sandbox later decides."""

import json

import pytest

from tests.helpers.sandbox.sandboxed import needs_sandbox

RIGHT, WRONG = "```python\ndef f(x): return x + 1\n```", "```python\ndef f(x): return x\n```"
ROWS = [
    {"question": "What is 2 + 3?", "response": "2 + 3 = 5, so \\boxed{5}.", "answer": "5"},
    {"question": "What is 2 + 4?", "response": "2 + 4 = 7, so \\boxed{7}.", "answer": "6"},
    {"question": "Add one.", "response": RIGHT, "test_list": ["assert f(1) == 2"]},
    {"question": "Add one more.", "response": WRONG, "test_list": ["assert f(2) == 3"]},
]
CONFIG = {
    "name": "mixed",
    "traces": [{"source": "file", "path": "traces.jsonl"}],
    "filters": [{"verify": {"by": ["code_tests", "math_answer"]}}],
}
NO_BWRAP = {"PATH": "/nonexistent"}


def verdicts(folder):
    import pyarrow.parquet as pq

    found = {}
    for split in ("kept", "rejected"):
        for file in (folder / "runs" / "mixed" / "filter" / "data").glob(f"{split}-*.parquet"):
            for row in pq.read_table(file).to_pylist():
                (verdict,) = row["verdicts"]
                found[row["task"]["question"]] = (split, verdict["keep"], verdict["reason"])
    return found


def write(tmp_path, rows=ROWS):
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.yaml").write_text(json.dumps(CONFIG))


def test_mathematics_is_judged_and_code_is_counted(distill, tmp_path):
    write(tmp_path)
    said = distill("validate", "config.yaml", env=NO_BWRAP)
    assert "warning: the filter code_tests cannot tell of any code here: no sandbox" in said.stdout
    assert "apt-get install bubblewrap" in said.stdout and "to run it here" not in said.stdout

    done = distill("filter", "config.yaml", env=NO_BWRAP)
    assert done.returncode == 0, done.stderr
    assert "warning: the filter code_tests cannot tell of any code here" in done.stdout
    assert "verify: cannot tell of 2 traces with code: no sandbox" in done.stdout
    undecided = ("rejected", None, "cannot tell: no sandbox")
    judged = verdicts(tmp_path)
    assert judged["Add one."] == judged["Add one more."] == undecided
    assert judged["What is 2 + 3?"][:2] == ("kept", True)
    assert judged["What is 2 + 4?"][:2] == ("rejected", False)
    again = distill("filter", "config.yaml", env=NO_BWRAP)
    assert "filter: done before, nothing changed" in again.stdout


@needs_sandbox
def test_a_sandbox_that_comes_later_judges_the_code_and_what_it_judged_stays(distill, tmp_path):
    write(tmp_path)
    assert distill("filter", "config.yaml", env=NO_BWRAP).returncode == 0
    done = distill("filter", "config.yaml")
    assert done.returncode == 0, done.stderr
    assert "filters.verify: a sandbox for code: there is one now" in done.stdout
    judged = verdicts(tmp_path)
    assert judged["Add one."][:2] == ("kept", True)
    assert judged["Add one more."][:2] == ("rejected", False)
    again = distill("filter", "config.yaml", env=NO_BWRAP)
    assert "filter: done before, nothing changed" in again.stdout
    assert verdicts(tmp_path) == judged


@pytest.mark.slow
def test_an_evaluation_stops_at_the_first_answer_that_is_code(distill, tmp_path, tiny):
    rows = [
        {"question": f"Add {n}.", "test_list": [f"assert f(1) == {n + 1}"]} for n in range(1, 5)
    ]
    config = {
        "name": "code",
        "tasks": {"train": [{"source": "inline", "tasks": rows}], "holdout": 2},
        "student": {"model": str(tiny), "prompt": {"template": "plain"}},
        "evaluate": {"verifier": "code_tests", "sampling": {"temperature": 0, "max_tokens": 6}},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config, indent=1))
    done = distill("run", "config.yaml", env=NO_BWRAP)
    line = json.dumps(config, indent=1).splitlines().index('  "verifier": "code_tests",') + 1
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"config.yaml:{line}: evaluate.verifier: inline-" in done.stderr
    assert "is code, and there is no sandbox to run it in" in done.stderr
    assert "`distill doctor` says how to get one" in done.stderr
    assert not (tmp_path / "runs" / "code" / "evaluate").exists()


@needs_sandbox
def test_data_without_code_is_not_judged_again_where_a_sandbox_comes(distill, tmp_path):
    write(tmp_path, ROWS[:2])
    first = distill("filter", "config.yaml", env=NO_BWRAP)
    assert first.returncode == 0 and "traces with code" not in first.stdout
    assert "filter: done before, nothing changed" in distill("filter", "config.yaml").stdout
