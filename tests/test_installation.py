"""What is installed: nothing that is compiled on the machine, and all that is imported."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_imports import COMPUTE, PACKAGES

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Imported where they are installed, and in no extra: what a user names brings them.
ON_REQUEST = {"sentence_transformers"}
# Of modules that are called otherwise than their distribution, where it is not installed.
OWNERS = {"google": "google-genai"}


def declared(*extras):
    """The distributions that the base and some extras name, extras of ours followed."""
    names, waiting = set(), [*PROJECT["dependencies"], *(r for e in extras for r in EXTRAS[e])]
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.name == PROJECT["name"]:
            waiting += [line for extra in requirement.extras for line in EXTRAS[extra]]
        else:
            names.add(canonicalize_name(requirement.name))
    return names


def installed(names):
    """These distributions and all that they require, as far as they are installed here."""
    found, waiting = {}, [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if name in found and extras <= found[name][1]:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = distribution, extras | found.get(name, (None, frozenset()))[1]
        for line in distribution.requires or []:
            further = Requirement(line)
            marker = further.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras)):
                waiting.append(further)
    return {name: distribution for name, (distribution, _) in found.items()}


def compiled_here(distributions):
    """Those whose wheel was made on a machine like this one and not for an index.

    An index takes Linux wheels with compiled code only where their tag says which systems they run
    on: manylinux or musllinux. A wheel that pip builds from source is tagged plain `linux`.
    """
    for name, distribution in distributions.items():
        tags = re.findall(r"^Tag: \S+-(\S+)$", distribution.read_text("WHEEL") or "", re.M)
        if tags and all(re.fullmatch(r"linux_\w+", tag) for tag in tags):
            yield name


@pytest.mark.parametrize("extra", ["quickstart", "dev"])
def test_nothing_of_the_environment_was_compiled_here(extra):
    found = installed(declared(extra))
    assert {"numpy", "pyarrow", "torch"} <= found.keys()
    assert list(compiled_here(found)) == []


def test_a_package_that_was_compiled_here_is_seen():
    pytest.importorskip("reasoning_gym")
    assert list(compiled_here(installed(declared("reasoning-gym")))) == ["pycosat"]


def imports(path):
    """The modules that a file imports, each with whether it does so outside of any function."""

    def walk(node, outside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name.partition(".")[0], outside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.level == 0:
                yield child.module.partition(".")[0], outside
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, outside and not function)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


def test_all_that_is_imported_is_declared():
    """Of the base, what a module imports as it is imported itself; of the extras, the rest."""
    base, everything = declared(), declared(*EXTRAS)
    owners = importlib.metadata.packages_distributions()
    unknown = set()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for module, outside in imports(path):
                if module in {*sys.stdlib_module_names, *PACKAGES, *ON_REQUEST}:
                    continue
                names = {
                    canonicalize_name(owner)
                    for owner in owners.get(module, [OWNERS.get(module, module)])
                }
                needed = base if outside and not name.startswith(COMPUTE) else everything
                if not names & needed:
                    unknown.add((module, name))
    assert unknown == set()


def run(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=900, **options
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("extra", ["quickstart", "dev"])
def test_the_environments_of_make_come_as_wheels(extra):
    """As the Makefile asks for it: a package without a wheel would be an error."""
    recipe = (ROOT / "Makefile").read_text()
    (options,) = re.findall(r"^PIP := \$\(BIN\)/python -m pip (install .*)$", recipe, re.M)
    assert "--only-binary :all:" in options
    pip = [sys.executable, "-m", "pip", *options.split(), "--dry-run", "--ignore-installed"]
    run(*pip, "-e", f".[{extra}]", cwd=ROOT)
    run(*pip, *re.findall(r"^WEIGHTS := (.*)$", recipe, re.M)[0].split(), cwd=ROOT)


IMPORT_ALL = """
import importlib, json, pkgutil, sys
failed = {}
for package in ("synth", "filters", "sft"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if module.name == "synth.__main__":
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            failed[module.name] = error.name.partition(".")[0]
print(json.dumps(failed))
"""
ASK_FOR_TRAINING = """
from synth.core.errors import MissingPackage
import sft
try:
    sft.train
except MissingPackage as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_base_alone_from_the_wheel_asks_an_api_and_filters(tmp_path, api):
    """The wheel with its own requirements and nothing else, in a folder without the checkout."""
    home, empty = tmp_path / "venv", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(home, with_pip=True)
    python, distill = home / "bin" / "python", home / "bin" / "distill"
    pip[0] = python
    options = ["--only-binary", ":all:", "--no-compile", "-c", ROOT / "constraints.txt"]
    run(*pip, "install", *options, wheel)
    listed = run(*pip, "list", "--format=freeze")
    assert "torch==" not in listed and "transformers==" not in listed
    env = {"PATH": "/usr/bin:/bin", "HOME": str(empty), "NO_PROXY": "*", "KEY": "sk-of-nobody"}
    here = {"cwd": empty, "env": env}

    failed = json.loads(run(python, "-c", IMPORT_ALL, **here))
    assert {name for name in failed if not name.startswith(COMPUTE)} == set()
    assert set(failed.values()) <= {"torch", "transformers", "accelerate", "safetensors", "trl"}
    said = run(python, "-c", ASK_FOR_TRAINING, **here)
    assert said.strip().endswith(f"{python} -m pip install '{wheel}[train]'")

    config = {
        "name": "base",
        "tasks": {"train": [{"source": "inline", "tasks": [
            {"question": "What is 3 - 2?", "answer": "1"}, {"question": "What is 1 + 1?", "answer": "2"},
        ]}]},
        "teachers": {"t": {"kind": "openai", "base_url": api.url, "model": "m", "api_key_env": "KEY"}},
        "generate": {"prompt": {"template": "boxed.en"}},
        "filters": ["truncated", "think_format", "repetition", "language", "math_answer", "near_dedup"],
    }  # fmt: skip
    (empty / "config.yaml").write_text(json.dumps(config))
    assert "kept 1 of 2 traces" in run(distill, "run", "config.yaml", **here)
    assert "kept 1 of 2 traces" in run(distill, "filter", "config.yaml", "seed=1", **here)
    assert {h["Authorization"] for h in api.headers} == {"Bearer sk-of-nobody"}

    said = run(distill, "validate", "quickstart", **here)
    assert "_configs" in said  # the wheel's own
    assert f"{python} -m pip install '{wheel}[train]'" in said
    assert run(distill, "preview", **here).count("trace sums-") == 3
    shown = " ".join(run(distill, "preview", "quickstart", **here).split())
    assert "4 - 4" in shown and "the teacher is not asked: " in shown
    refused = subprocess.run([distill, "run", "quickstart"], capture_output=True, text=True, **here)
    assert refused.returncode == 2 and "[train]'" in refused.stderr
    run(distill, "doctor", **here)
