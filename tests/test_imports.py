"""What is loaded when something is imported. The layers stand in pyproject.toml: `lint-imports`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("synth", "filters", "sft")
# The command line starts without these, and nothing loads torch before it computes.
HEAVY = (
    "torch", "transformers", "trl", "peft", "datasets", "vllm", "ray", "duckdb", "pyarrow", "openai",
    "math_verify",
)  # fmt: skip
# Modules that are themselves imported inside functions, so they name at their top what they use.
COMPUTE = ("sft.training", "sft.losses", "sft.models", "sft.labels", "synth.teachers._transformers")


def modules(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not name.startswith(COMPUTE) or name in COMPUTE:
            yield name


def loaded(code, names):
    """Which of some libraries a fresh interpreter has loaded after this code."""
    code = f"import importlib, sys\n{code}\nprint(*[m for m in {names!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_command_line_loads_nothing_heavy():
    assert loaded("import synth.cli.app", HEAVY) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_face_and_no_plug_in_loads_torch_when_it_is_imported(package):
    names = [name for name in modules(package) if name != "synth.__main__"]
    code = f"for n in {names!r}: importlib.import_module(n)"
    libraries = ("torch", "transformers", "trl", "datasets", "vllm", "ray")
    assert loaded(code, libraries) == []


def test_the_face_of_sft_hands_on_training_when_it_is_used():
    assert loaded("import sft", HEAVY) == []
    code = """
import sft
train, result = sft.train, sft.TrainResult
import sft.training.run as run
assert (train, result) == (run.train, run.TrainResult)
"""
    assert loaded(code, ("sft.training.run",)) == ["sft.training.run"]


def test_training_without_torch_names_the_package():
    code = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
import sft
from synth.core.errors import MissingPackage
try:
    sft.train
except MissingPackage as error:
    assert "torch" in str(error)
else:
    raise AssertionError
"""
    assert loaded(code, ("torch",)) == []
