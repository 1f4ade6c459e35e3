"""Benchmarks through lm-eval: a task over a local file, a tiny random student."""

import importlib.util
import json

import pytest

from sft.evaluation.lm_eval import load_tasks, reduced, run_tasks
from sft.evaluation.statistics import wilson
from synth.core.errors import MissingPackage, UserError

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
        {"question": f"{n} + 1 =", "choices": [f"{n + 1}", f"{n}", "9"], "label": 0}
        for n in range(6)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "tiny_sums.yaml").write_text(TASK.format(data=data))
    return folder


@pytest.fixture
def student(checkpoint):
    from synth.core.models import load_model, load_tokenizer

    return load_model(str(checkpoint), device="cpu"), load_tokenizer(str(checkpoint))


@pytest.mark.slow
def test_a_task_of_the_users_own_runs_on_a_student(own_tasks, student, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    manager = load_tasks(["tiny_sums"], own_tasks)
    found = run_tasks(*student, ["tiny_sums"], manager=manager, limit=4)
    task = found["tasks"]["tiny_sums"]
    assert (task["questions"], task["shots"], task["task_version"]) == (4, 0, 3)
    (metric,) = task["metrics"]
    assert (metric["metric"], metric["filter"]) == ("acc", "none")
    assert metric["value"] in (0, 0.25, 0.5, 0.75, 1)
    assert metric["low"] <= metric["value"] <= metric["high"]
    json.dumps(found, allow_nan=False)


@pytest.mark.slow
def test_the_score_is_that_of_the_likeliest_choice(own_tasks, student, monkeypatch, tmp_path):
    """Against log-probabilities summed here, token by token, in float64."""
    import torch

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model, tokenizer = student
    manager = load_tasks(["tiny_sums"], own_tasks)
    found = run_tasks(*student, ["tiny_sums"], manager=manager, chat=False)
    right = 0
    for n in range(6):
        scores = []
        for choice in (n + 1, n, 9):
            prompt = tokenizer(f"{n} + 1 =")["input_ids"]
            whole = tokenizer(f"{n} + 1 = {choice}")["input_ids"]
            with torch.inference_mode():
                logits = model(torch.tensor([whole])).logits[0].double()
            said = logits.log_softmax(-1)[range(len(whole) - 1), whole[1:]]
            scores.append(float(said[len(prompt) - 1 :].sum()))
        right += scores[0] == max(scores)
    assert found["tasks"]["tiny_sums"]["metrics"][0]["value"] == pytest.approx(right / 6)


@pytest.mark.slow
def test_an_unknown_task_is_named_with_the_nearest(own_tasks):
    with pytest.raises(UserError, match=r"'tiny_sum'.*tiny_sums"):
        load_tasks(["tiny_sum"], own_tasks)
    with pytest.raises(UserError, match="names no task"):
        load_tasks([], own_tasks)
    with pytest.raises(UserError, match="lm_eval_path: no folder"):
        load_tasks(["tiny_sums"], own_tasks / "absent")


@pytest.mark.slow
def test_data_that_are_not_there_are_said(own_tasks):
    (own_tasks.parent / "sums.jsonl").unlink()
    with pytest.raises(UserError, match="'tiny_sums' cannot be loaded"):
        load_tasks(["tiny_sums"], own_tasks)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is there")
def test_without_the_package_its_extra_is_named():
    with pytest.raises(MissingPackage, match=r"pip install .*\[eval\]"):
        load_tasks(["gsm8k"])


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


@pytest.mark.parametrize(
    ("value", "stderr", "n", "wilsons"),
    [
        (0.0, 0.0, 6, True), (1.0, 0.0, 6, True), (1 / 6, (5 / 36 / 5) ** 0.5, 6, True),
        (0.5, 0.1, 6, False), (0.51, 0.2236, 6, False), (7.0, 0.0, 6, False), (0.0, 0.0, 1, False),
        (0.5, 0.1, None, False),
    ],
)  # fmt: skip
def test_shares_of_right_answers_get_the_interval_of_shares(value, stderr, n, wilsons):
    found = {
        "results": {"t": {"acc,none": value, "acc_stderr,none": stderr}},
        "n-samples": {"t": {"effective": n}},
    }
    (metric,) = reduced(found)["tasks"]["t"]["metrics"]
    expected = wilson(round(value * n), n) if wilsons else (value - 1.96 * stderr, value + 1.96 * stderr)  # fmt: skip
    assert (metric["low"], metric["high"]) == pytest.approx(expected)
