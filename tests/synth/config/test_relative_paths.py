"""Relative paths are the config's; what lies in the working folder alone is taken from there."""

import json

import pytest

from synth.config.validate import load_run
from synth.core.errors import ConfigError

ROW = '{"question": "1 + 1?", "answer": 2}\n'


def config(**sections):
    whole = {
        "name": "r",
        "tasks": {"train": [{"source": "jsonl", "path": "q.jsonl"}]},
        "teachers": {"t": {"kind": "fake"}},
        "generate": {"prompt": {"template": "plain"}},
    }
    return json.dumps({**whole, **sections}, indent=1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a config in it, seen from a working folder above."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text(config())
    return tmp_path / "mine"


def path_of(run):
    return run.tasks.train[0]["path"]


def test_a_file_beside_the_config_is_found_from_anywhere(folder):
    (folder / "q.jsonl").write_text(ROW)
    run, source = load_run("mine/config.yaml")
    assert path_of(run) == "mine/q.jsonl"
    assert source.notes == []


def test_from_the_folder_of_the_config_nothing_changes(folder, monkeypatch):
    (folder / "q.jsonl").write_text(ROW)
    monkeypatch.chdir(folder)
    assert path_of(load_run("config.yaml")[0]) == "q.jsonl"


def test_what_lies_in_the_working_folder_alone_is_taken_and_said(folder, tmp_path):
    (tmp_path / "q.jsonl").write_text(ROW)
    run, source = load_run("mine/config.yaml")
    assert path_of(run) == "q.jsonl"
    [note] = source.notes
    assert note.startswith("mine/config.yaml:7: tasks.train.0.path: q.jsonl is taken from the work")
    assert "../q.jsonl names it from there" in note


def test_where_both_are_there_the_config_wins_and_says_so(folder, tmp_path):
    (tmp_path / "q.jsonl").write_text(ROW)
    (folder / "q.jsonl").write_text(ROW)
    run, source = load_run("mine/config.yaml")
    assert path_of(run) == "mine/q.jsonl"
    assert "mine/q.jsonl is taken, not q.jsonl in this folder" in source.notes[0]


def test_a_path_on_the_command_line_is_the_working_folders(folder, tmp_path):
    for place in (tmp_path, folder):
        (place / "other.jsonl").write_text(ROW)
    run, source = load_run("mine/config.yaml", ["tasks.train.0.path=other.jsonl"])
    assert path_of(run) == "other.jsonl"
    assert source.notes == []


def test_no_such_file_names_the_near_one(folder):
    (folder.parent / "qq.jsonl").write_text(ROW)
    with pytest.raises(ConfigError, match=r"no such file: q.jsonl; did you mean 'qq.jsonl'\?"):
        load_run("mine/config.yaml")


def test_models_templates_and_traces_too_but_no_name_of_an_api(folder):
    (folder / "student").mkdir()
    (folder / "gpt").mkdir()
    (folder / "mine.jinja").write_text(
        "---\ndescription: x\nversion: 1\nvariables: {question: q}\n---\n{{ question }}\n"
    )
    (folder / "a-1.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (folder / "config.yaml").write_text(
        json.dumps(
            {
                "name": "r",
                "traces": [{"source": "file", "path": "a-*.jsonl"}],
                "teachers": {
                    "api": {"kind": "openai", "model": "gpt", "base_url": "http://x/v1"},
                    "own": {"kind": "transformers", "model": "student"},
                },
                "student": {"model": "student", "prompt": {"template": "mine.jinja"}},
                "train": {},
            }
        )
    )
    run, _ = load_run("mine/config.yaml")
    assert run.traces[0]["path"] == "mine/a-*.jsonl"
    assert run.student.model == "mine/student"
    assert run.student.prompt.template == "mine/mine.jinja"
    assert run.teachers["own"]["model"] == "mine/student"
    assert run.teachers["api"]["model"] == "gpt"
