"""The worked examples of CONTRIBUTING.md work as they are printed."""

import json
import re
import sys
from pathlib import Path

import pytest

from synth.core.errors import UserError

PAGE = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(title):
    """The Python of a section."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", section, re.S))


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A package of the user's own, on the path of this process and of its children."""
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


def test_the_filter_and_the_teacher(modules, distill, write_config, tmp_path):
    (modules / "apology.py").write_text(example("Add a filter"))
    (modules / "echo.py").write_text(example("Add a teacher"))
    questions = [{"question": text, "answer": "1"} for text in ("I am sorry", "What is 1?")]
    config = {
        "name": "added",
        "tasks": {"train": [{"source": "inline", "tasks": questions}]},
        "teachers": {"t": {"kind": "my_package.echo", "suffix": "?"}},
        "generate": {"prompt": {"template": "plain"}},
        "filters": [{"my_package.apology": {"word": "sorry"}}],
    }
    done = distill("run", write_config(config))
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "runs" / "added" / "filter" / "manifest.json").read_text())
    assert manifest["rows"] == {"kept": 1, "rejected": 1}
    assert manifest["funnel"]["filters"][0]["reasons"] == {"apology": 1}


def test_a_misspelt_class_variable_is_an_error(modules, distill, write_config):
    text = example("Add a filter")
    (modules / "apology.py").write_text(text.replace("version: ClassVar", "verison: ClassVar"))
    config = {
        "name": "misspelt",
        "tasks": {"train": [{"source": "inline", "tasks": [{"question": "q", "answer": "1"}]}]},
        "teachers": {"t": {"kind": "fake"}},
        "generate": {"prompt": {"template": "plain"}},
        "filters": ["my_package.apology"],
    }
    done = distill("validate", write_config(config))
    assert done.returncode == 2
    assert "verison" in done.stderr
    assert "version" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_divergence(monkeypatch):
    torch = pytest.importorskip("torch")
    from sft.losses import divergences

    names = {**vars(divergences), "torch": torch}
    exec(example("Add a divergence"), names)  # our own page
    with pytest.raises(UserError, match="hellinger"):
        names["test_hellinger"]()
    monkeypatch.setitem(divergences.DIVERGENCES, "hellinger", names["_hellinger"])
    names["test_hellinger"]()
