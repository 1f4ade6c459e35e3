"""Why a stage is done again, in plain words: the key, its old value and its new one."""

import pytest

from synth.config.validate import load_run
from synth.core.text.changes import changes
from synth.stages.pipeline import do_stage

A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ({"train": {"epochs": 2}}, {"train": {"epochs": 3}}, ["train.epochs: 2 -> 3"]),
        ({"seed": None}, {"seed": 4}, ["seed: not set -> 4"]),
        ({"train": {"liger": False}}, {"train": {"liger": True}}, ["train.liger: false -> true"]),
        ({"tasks": A}, {"tasks": B}, ["tasks: the questions are others"]),
        ({"prompt": A}, {"prompt": B}, ["prompt: the text of the prompt was changed"]),
        ({"weights": "hub/a"}, {"weights": "hub/b"}, ["weights: hub/a -> hub/b"]),
        (
            {"weights": f"sha256:{A}"},
            {"weights": f"sha256:{B}"},
            ["weights: the weights of the student are others"],
        ),
        ({"after": None}, {"after": A}, ["after: the student was trained anew"]),
        (
            {"tasks": {"train": [{"limit": 5}, {"limit": 6}]}},
            {"tasks": {"train": [{"limit": 5}, {"limit": 7}]}},
            ["tasks.train.1.limit: 6 -> 7"],
        ),
        (
            {"stops_on": [["math_answer", 2, {"timeout": 5}]]},
            {"stops_on": [["math_answer", 3, {"timeout": 9}], ["exact", 1, {"level": "x"}]]},
            [
                "filters.math_answer.version: 2 -> 3",
                "filters.math_answer.timeout: 5 -> 9",
                "filters.exact: it is new",
            ],
        ),
        ({"filters": {"exact": {"a": 1}}}, {"filters": {}}, ["filters.exact: it is gone"]),
        (
            {"shares": {"t": [1.0, None]}},
            {"shares": {"t": [2.0, None]}},
            ["teachers.t.weight: 1.0 -> 2.0"],
        ),
        (
            {"files": {"q.jsonl": [1000, 5]}},
            {"files": {"q.jsonl": [2000, 6]}},
            ["the file q.jsonl was changed: 1,000 -> 2,000 bytes"],
        ),
        ({"x": 1}, {"x": 1}, []),
    ],
)
def test_each_difference_is_one_plain_line(old, new, says):
    assert changes(old, new) == says


def test_a_file_of_the_same_size_was_written_again():
    [line] = changes({"files": {"q": [1, 10**18]}}, {"files": {"q": [1, 2 * 10**18]}})
    assert line.startswith("the file q was written again, 2033-05-1")


def test_a_stage_that_is_done_again_names_the_key_with_both_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"{n} + 1?", "answer": n + 1} for n in range(3)]
    config = {
        "name": "r",
        "tasks": {"train": [{"source": "inline", "tasks": rows}]},
        "teachers": {"t": {"kind": "fake"}},
        "generate": {"prompt": {"template": "boxed.en"}},
    }
    said = []
    for override in ([], ["generate.sampling.temperature=0.5"], ["tasks.train.0.limit=2"]):
        run, _ = load_run(config, override)
        for stage in ("tasks", "generate"):
            do_stage(stage, run, said.append)
    assert [line for line in said if "again" in line] == [
        "generate: done again, because of\n  generate.sampling.temperature: not set -> 0.5",
        "tasks: done again, because of\n  tasks.train.0.limit: not set -> 2",
        "generate: done again, because of\n  tasks: the questions are others\n"
        "  generate.sampling.temperature: 0.5 -> not set",
    ]
