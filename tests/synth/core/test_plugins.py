"""Users' own modules: where they are found, how their options are set, when they judge anew."""

import json
import sys

import pytest

from synth.config.validate import load_run
from synth.core.errors import ConfigError
from synth.stages.pipeline import do_stage

FILTER = """
from filters.base import Decision, FilterConfig

class Config(FilterConfig):
    words: int = 1

def build(config, context):
    return lambda record: Decision(len(record.answer.split()) >= config.words, "too short")
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A working folder with a config in a folder of its own, and a package beside the config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"mine_{tmp_path.name.replace('-', '_')}"[:60]
    (tmp_path / "configs" / name).mkdir(parents=True)
    (tmp_path / "configs" / name / "words.py").write_text(FILTER)
    (tmp_path / "traces.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{n}?", "completion": "a b"}) + "\n" for n in range(3))
    )
    (tmp_path / "configs" / "config.yaml").write_text(
        json.dumps(
            {
                "name": "r",
                "traces": [{"source": "file", "path": "../traces.jsonl"}],
                "filters": ["truncated", f"{name}.words"],
            }
        )
    )
    return tmp_path / "configs" / name


def filtered(*overrides):
    """Runs import and filter; returns what was said."""
    said = []
    run, _ = load_run("configs/config.yaml", overrides)
    for stage in ("import", "filter"):
        do_stage(stage, run, said.append)
    return "\n".join(said), json.loads((run.folder / "filter/manifest.json").read_text())["rows"]


def test_a_module_beside_the_config_is_found_and_its_options_are_set_by_its_dotted_name(package):
    run, _ = load_run("configs/config.yaml", [f"filters.{package.name}.words.words=3"])
    assert run.filters[1] == {f"{package.name}.words": {"words": 3}}


def test_a_name_that_is_nowhere_says_where_it_was_looked_for(package):
    with pytest.raises(ConfigError, match=r"cannot import 'nowhere.x'.*looked in .*/configs and"):
        load_run("configs/config.yaml", ["filters=[nowhere.x]"])


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1\nif x\n", r"words.py:2: SyntaxError"),
        ("import nowhere_at_all\n", r"words.py:1: ModuleNotFoundError: No module named 'nowhere_a"),
        ("\n1 / 0\n", r"words.py:2: ZeroDivisionError"),
    ],
)
def test_a_module_with_a_fault_gets_one_message_with_its_line(code, says, package):
    (package / "words.py").write_text(code)
    with pytest.raises(ConfigError, match=says):
        load_run("configs/config.yaml")


def test_a_name_with_dots_in_it_is_one_step_of_an_override():
    config = {
        "name": "r",
        "tasks": {"train": [{"source": "inline", "tasks": [{"question": "1 + 1?"}]}]},
        "teachers": {"qwen2.5": {"kind": "fake"}},
        "generate": {"prompt": {"template": "plain"}},
    }
    run, _ = load_run(config, ["teachers.qwen2.5.accuracy=0.1"])
    assert run.teachers == {"qwen2.5": {"kind": "fake", "accuracy": 0.1}}


@pytest.mark.slow
def test_where_the_code_changed_it_judges_anew(package):
    assert filtered()[1] == {"kept": 3, "rejected": 0}
    assert "filter: done before, nothing changed" in filtered()[0]
    source = package / "words.py"
    source.write_text(FILTER.replace(">= config.words", "> 5"))
    for name in [name for name in sys.modules if name.startswith(package.name)]:
        del sys.modules[name]  # as in the process of the next command
    said, rows = filtered()
    assert f"filters.{package.name}.words: its code was changed" in said
    assert rows == {"kept": 0, "rejected": 3}
