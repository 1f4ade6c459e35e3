"""The dependency rules of the architecture, walked over the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("synth", "filters", "sft")
# The base: everything may import it, and it imports nothing but itself.
BASE = {
    "synth", "synth.config.augment", "synth.core.compression", "synth.config.run", "synth.config.yaml_file", "synth.config.distillation", "synth.core.errors", "synth.config.evaluate", "synth.config.generate", "synth.core.dataset", "synth.core.logprobs", "synth.core.models",
    "synth.core.plugins", "synth.core.prompts", "synth.core.reasoning", "synth.core.record", "synth.core.question_text",
    "synth.config.train",
}  # fmt: skip
# Where the packages meet.
JOINTS = {
    "synth.cli.app",
    "synth.stages.pipeline",
    "synth.stages.generate",
    "synth.stages.filter",
    "synth.stages.import_traces",
    "synth.stages.calibrate_dedup",
    "synth.stages.evaluate",
    "synth.stages.label",
    "synth.stages.train",
    "synth.stages._train.teacher_weights",
    "synth.stages.augment",
    "synth.stages.rewrite",
    "synth.cli.preview",
    # An estimate replays a run's own stages and filters; its intervals are those of sft.evaluation.statistics.
    "synth.estimate.estimator",
    "synth.estimate.bounds",
    "synth.estimate.inventory",
    "synth.estimate.ranges",
    "synth.__main__",
}
HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "vllm",
    "ray",
    "pyarrow",
    "openai",
    "math_verify",
)


def modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


MODULES = dict(modules())


def imports(path, top_level_only=False):
    """Names of our own modules that a file imports, typing-only imports included."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def ours(path):
    return {name for name in imports(path) if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("name", sorted(BASE))
def test_the_base_imports_only_the_base(name):
    assert ours(MODULES[name]) <= BASE


@pytest.mark.parametrize("package", ["filters", "sft"])
def test_filters_and_sft_import_the_base_alone(package):
    for name, path in MODULES.items():
        if name.split(".")[0] == package:
            strangers = {i for i in ours(path) if i.split(".")[0] != package and i not in BASE}
            assert not strangers, f"{name} imports {strangers}"


def test_only_the_joints_bring_the_packages_together():
    for name, path in MODULES.items():
        if name.split(".")[0] == "synth" and name not in JOINTS:
            strangers = {i for i in ours(path) if i.split(".")[0] in ("filters", "sft")}
            assert not strangers, f"{name} imports {strangers}"
            assert not (ours(path) & JOINTS) or name in JOINTS, f"{name} imports upward"


def test_imports_form_no_circle():
    graph = {name: ours(path) & MODULES.keys() - {name} for name, path in MODULES.items()}
    done, path_here = set(), []

    def visit(name):
        assert name not in path_here, " -> ".join([*path_here[path_here.index(name) :], name])
        if name in done:
            return
        path_here.append(name)
        for other in sorted(graph[name]):
            visit(other)
        path_here.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


def test_the_command_line_loads_nothing_heavy():
    code = f"import sys, synth.cli.app; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_loads_torch_when_it_is_imported(package):
    names = [name for name in MODULES if name.split(".")[0] == package and name != "synth.__main__"]
    code = f"import importlib, sys\nfor n in {names!r}: importlib.import_module(n)\n"
    code += "print([m for m in ('torch', 'transformers', 'trl', 'datasets', 'vllm', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
