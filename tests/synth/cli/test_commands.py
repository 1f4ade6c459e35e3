"""The command line before a run: help, version, lists with options, a config to start from."""

import json
import re

import pytest
from typer.testing import CliRunner

from synth import __version__
from synth.cli._completion import complete_config
from synth.cli.app import app
from synth.cli.catalogue import KINDS, catalogue
from synth.cli.init import write_config
from synth.config.validate import load_run
from synth.config.yaml_file import config_names
from synth.core import plugins
from synth.core.errors import UserError

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


def said(*arguments):
    result = CliRunner().invoke(app, [*arguments], env={"COLUMNS": "100", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    return result.output


def test_help_groups_the_commands():
    text = said("--help")
    groups = re.findall(r"─ ([A-Z][a-z]+(?: [a-z]+)?) ─", text)
    assert groups == ["Options", "Set up", "Run", "Single stages", "Look"]
    assert all(re.search(rf"│ {name} ", text) for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_an_example_of_itself(name):
    assert f"Example: distill {name}" in said(name, "--help")


def test_version():
    assert said("--version") == f"synth-distill {__version__}\n"


def test_a_config_is_completed_by_shipped_names_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick.yaml").touch()
    assert complete_config("quick") == ["quickstart", "quickstart-vllm", "quick.yaml"]


@pytest.mark.parametrize("kind", ["filters", "teachers", "tasks", "traces"])
def test_every_plug_in_tells_its_options_with_types_and_defaults(kind):
    plugin = {"filters": "filter", "teachers": "teacher", "tasks": "task source"}.get(
        kind, "trace source"
    )
    for name in plugins.names(plugin):
        text = catalogue(kind, name)
        for option in plugins.load(plugin, name).Config.model_json_schema()["properties"]:
            [line] = re.findall(rf"(?m)^  {option}: .*$", text)
            assert re.search(r"; (required|default .+)$", line), line
            assert "any value" not in line or option in ("schema", "items"), (name, line)


def test_options_are_told_as_the_model_has_them():
    text = catalogue("filters", "math_answer")
    assert "  action: off, tag or drop; default drop\n" in text
    assert "  timeout: number, above 0 and 600 or less; default 5\n" in text
    assert "  require_box: true or false; default false\n" in text
    assert "  model: text; required\n" in catalogue("teachers", "openai")


def test_prompts_layouts_and_configs_are_told_too():
    assert "question: " in catalogue("prompts", "boxed.en")
    assert "distill init my-run --from quickstart" in catalogue("configs", "quickstart")
    entries = catalogue("configs").splitlines()[1:]
    assert all(len(line.split(maxsplit=1)) == 2 for line in entries), "each has a description"
    with pytest.raises(UserError, match=r"did you mean 'quickstart'\?"):
        catalogue("configs", "quikstart")
    with pytest.raises(UserError, match=r"did you mean 'math_answer'\?"):
        catalogue("filters", "math_anser")
    for kind in KINDS:
        assert catalogue(kind)
    assert catalogue("sources") == catalogue("tasks")  # its name of before


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("base", [None, *config_names()])
def test_what_init_writes_is_valid_and_called_as_asked(base, folder):
    path = write_config("mine", base, None)
    assert str(path) == "mine.yaml"
    run, _ = load_run("mine.yaml", ["traces.0.path=x"] if base == "filter-only" else [])
    assert run.name == "mine"
    assert path.read_text().startswith("# ")


def test_init_takes_traces_of_a_file_and_of_a_hub(folder):
    (folder / "my traces.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}))
    write_config("mine", None, "my traces.jsonl")
    assert load_run("mine.yaml")[0].traces == [{"source": "file", "path": "my traces.jsonl"}]
    write_config("hub", None, "a/b")
    assert load_run("hub.yaml")[0].traces == [{"source": "hub", "dataset": "a/b"}]
    with pytest.raises(UserError, match="no such file; did you mean 'my traces"):
        write_config("other", None, "my trace.jsonl")


def test_init_never_overwrites_and_names_a_free_name(folder):
    assert "then: distill validate my-run.yaml" in said("init")
    before = (folder / "my-run.yaml").read_text()
    for _ in range(2):
        with pytest.raises(UserError, match="nothing is overwritten: distill init my-run-2"):
            write_config("my-run.yaml", None, None)
    assert (folder / "my-run.yaml").read_text() == before
    with pytest.raises(UserError, match="cannot name a run"):
        write_config("../out", None, None)
    assert [path.name for path in folder.iterdir()] == ["my-run.yaml"]


def test_a_key_that_a_stage_finds_wrong_has_its_file_and_line(distill, write_config):
    rows = [{"question": "1 + 1?", "answer": 2}, {"question": "1 + 2?", "answer": 3}]
    config = {"name": "r", "tasks": {"train": [{"source": "inline", "tasks": rows}], "holdout": 5}}
    path = write_config(config)
    line = path.read_text().splitlines().index('  "holdout": 5') + 1
    done = distill("run", path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"config.yaml:{line}: tasks.holdout: 5 of 2 questions leaves none" in done.stderr
