"""The Python interface: its page and its notebook run as they are written, and it loads nothing heavy."""

import ast
import asyncio
import doctest
import json
import subprocess
import sys
from pathlib import Path

import pytest

from synth import load_run, run_stage
from synth.core.errors import ConfigError, UserError

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "name": "small",
    "tasks": {"train": [{"source": "inline", "tasks": [{"question": "1 + 1?", "answer": 2}]}]},
    "teachers": {"made-up": {"kind": "fake"}},
    "generate": {"prompt": {"template": "boxed.en"}},
}


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_page_says_what_comes():
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    page = str(ROOT / "docs" / "python.md")
    failed, tried = doctest.testfile(page, module_relative=False, optionflags=options)
    assert tried > 10 and not failed


def test_the_notebook_runs_cell_by_cell():
    """As in Jupyter: in one namespace, and under an event loop that runs already."""
    notebook = json.loads((ROOT / "docs" / "python.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    names = {}

    async def cell(source):
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        return last and eval(compile(ast.Expression(last.value), "cell", "eval"), names)

    shown = [asyncio.run(cell(source)) for source in cells]
    assert (6, 6) in shown and shown[-1].is_file()
    assert all(value is None or repr(value) for value in shown)


def test_import_loads_nothing_heavy():
    heavy = {"torch", "transformers", "datasets", "pyarrow", "pandas", "openai", "pydantic"}
    code = f"import sys, synth; print(*({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()


def test_a_config_is_a_name_a_file_or_a_dict(write_config):
    assert load_run(CONFIG).name == "small"
    assert load_run(CONFIG, "seed=4", name="other").seed == 4
    assert CONFIG["name"] == "small" and "seed" not in CONFIG
    merged = load_run(CONFIG, generate={"sampling": {"temperature": 0.5}})
    assert merged.generate.sampling.temperature == 0.5
    assert merged.generate.prompt.template == "boxed.en"
    assert load_run(CONFIG, filters=["truncated"]).filters == ["truncated"]
    assert load_run(Path(write_config(CONFIG))) == load_run(CONFIG)


def test_mistakes_of_the_user_are_said():
    with pytest.raises(
        UserError,
        match="dry-rum: no such file or config; did you mean the shipped config 'dry-run'",
    ):
        load_run("dry-rum")
    with pytest.raises(ConfigError, match="config: tsks: unknown key; did you mean 'tasks'"):
        load_run({**CONFIG, "tsks": {}})
    with pytest.raises(UserError, match="no stage 'generat'; did you mean 'generate'"):
        run_stage("generat", load_run(CONFIG))
    with pytest.raises(UserError, match="the stage 'tasks' is not done"):
        run_stage("generate", load_run(CONFIG))


def test_what_is_not_done_cannot_be_read():
    result = run_stage("tasks", load_run(CONFIG), say=lambda line: None)
    assert repr(result) == "RunResult(runs/small: tasks done)"
    for read in (lambda: result.kept, lambda: result.funnel, lambda: result.traces()):
        with pytest.raises(UserError, match="is not done"):
            read()
    with pytest.raises(UserError, match="no split 'cut'"):
        result.traces("tasks", "cut")


def test_an_error_in_a_notebook_is_the_same_error():
    config = load_run(CONFIG, teachers={"made-up": {"refused": 1.0, "accuracy": 0.0}})
    run_stage("tasks", config)

    async def cell():
        with pytest.raises(UserError, match="no answer came"):
            run_stage("generate", load_run(CONFIG, teachers={"made-up": {"errors": 1.0}}))

    asyncio.run(cell())
