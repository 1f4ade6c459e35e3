"""Benchmarks through lm-eval: a task over a local file, a tiny random student."""

import importlib.util
import json

import pytest

from sft.lm_eval import reduced, run_tasks
from synth.errors import MissingPackage, UserError

TASK = """\
task: tiny_sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list:
  - metric: acc
metadata:
  version: 3
"""


@pytest.fixture
def own_tasks(tmp_path):
    pytest.importorskip("lm_eval", exc_type=ImportError)
    data = tmp_path / "sums.jsonl"
    rows = [
        {"question": f"{n} + 1 =", "choices": [f" {n + 1}", f" {n}", " 0"], "label": 0}
        for n in range(6)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "tiny_sums.yaml").write_text(TASK.format(data=data))
    return folder


@pytest.mark.slow
def test_a_task_of_the_users_own_runs_on_a_student(own_tasks, checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = run_tasks(checkpoint, ["tiny_sums"], own_tasks=own_tasks, limit=4, chat=False)
    task = found["tasks"]["tiny_sums"]
    assert (task["questions"], task["shots"], task["task_version"]) == (4, 0, 3)
    (metric,) = task["metrics"]
    assert (metric["metric"], metric["filter"]) == ("acc", "none")
    assert metric["value"] in (0, 0.25, 0.5, 0.75, 1)
    assert metric["low"] <= metric["value"] <= metric["high"]
    json.dumps(found, allow_nan=False)


@pytest.mark.slow
def test_an_unknown_task_is_named_with_the_nearest(own_tasks, checkpoint):
    with pytest.raises(UserError, match=r"'tiny_sum'.*tiny_sums"):
        run_tasks(checkpoint, ["tiny_sum"], own_tasks=own_tasks)
    with pytest.raises(UserError, match="names no task"):
        run_tasks(checkpoint, [], own_tasks=own_tasks)


@pytest.mark.slow
def test_data_that_are_not_there_are_said(own_tasks, checkpoint):
    (own_tasks.parent / "sums.jsonl").unlink()
    with pytest.raises(UserError, match="'tiny_sums' cannot be loaded"):
        run_tasks(checkpoint, ["tiny_sums"], own_tasks=own_tasks)


def test_a_folder_without_a_model_is_refused(own_tasks, tmp_path):
    with pytest.raises(UserError, match="no model lies in"):
        run_tasks(tmp_path, ["tiny_sums"], own_tasks=own_tasks)
    with pytest.raises(UserError, match="no model lies in"):
        run_tasks(tmp_path / "absent", ["tiny_sums"])


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is there")
def test_without_the_package_its_extra_is_named(tmp_path):
    with pytest.raises(MissingPackage, match=r"synth-distill\[eval\]"):
        run_tasks(tmp_path, ["gsm8k"])


def test_results_become_json():
    found = {
        "results": {
            "sums": {
                "alias": "sums", "exact_match,strict": 0.5, "exact_match_stderr,strict": 0.1,
                "bleu,none": float("nan"), "bleu_stderr,none": "N/A",
            }
        },
        "n-samples": {"sums": {"original": 9, "effective": 4}},
        "n-shot": {"sums": 2},
        "versions": {"sums": 1.0},
        "lm_eval_version": "0.4",
    }  # fmt: skip
    task = reduced(found)["tasks"]["sums"]
    assert (task["questions"], task["shots"]) == (4, 2)
    strict, bleu = task["metrics"]
    assert (strict["low"], strict["high"]) == pytest.approx((0.304, 0.696))
    assert (bleu["value"], bleu["stderr"], bleu["low"]) == (None, None, None)
    assert reduced({}) == {"version": None, "tasks": {}}
