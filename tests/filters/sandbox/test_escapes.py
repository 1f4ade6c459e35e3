"""None of many programs gets out of the sandbox: not as root, not as another user."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from filters._sandbox import sandbox
from tests.helpers.sandbox import escapes
from tests.helpers.sandbox.sandboxed import needs_sandbox

ROOT = Path(__file__).resolve().parents[3]
USERS = ["root", "nobody"] if os.geteuid() == 0 else ["self"]
pytestmark = needs_sandbox


@pytest.fixture(scope="module", params=USERS)
def attempts(request):
    """What came of all attempts as one user."""
    return as_nobody() if request.param == "nobody" else escapes.attempt_all()


def as_nobody():
    """All attempts, made by a process of another user.

    The interpreter and the checkout may lie where nobody else can look, so both go elsewhere.
    """
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder)
        copied.chmod(0o755)
        python = copy_of_python(copied / "python")
        # Without the face of filters, whose libraries are not copied: the sandbox needs none.
        for path in (
            *ROOT.glob("filters/_sandbox/*.*"),
            *ROOT.glob("synth/__init__.py"), *ROOT.glob("synth/core/*.py"),
            *ROOT.glob("tests/helpers/sandbox/escape*.py"),
        ):  # fmt: skip
            target = copied / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        done = subprocess.run(
            [python, copied / "tests" / "helpers" / "sandbox" / "escapes.py"],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"},
            user=65534,
            group=65534,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=900,
        )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def copy_of_python(target):
    """This interpreter without what comes with `pip`, at another place."""
    prefix = Path(os.path.realpath(sys.base_prefix))
    if prefix.is_relative_to("/usr"):
        return sys._base_executable
    library = Path(sysconfig.get_path("stdlib"))

    def unneeded(folder, names):
        return {
            n for n in names if n in ("site-packages", "test", "__pycache__", "idlelib", "tkinter")
            or n.startswith("config-")
        }  # fmt: skip

    shutil.copytree(library, target / library.relative_to(prefix), ignore=unneeded)
    (target / "bin").mkdir()
    shutil.copy(sandbox.PYTHON, target / "bin")
    for shared in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy(shared, target / "lib", follow_symlinks=False)
    # It looks for its libraries where it was installed; this is found first.
    program = target / "python"
    program.write_text(
        f'#!/bin/sh\nLD_LIBRARY_PATH={target}/lib exec {target}/bin/{Path(sandbox.PYTHON).name} "$@"\n'
    )
    program.chmod(0o755)
    return program


@pytest.mark.slow
@pytest.mark.parametrize("name", [*escapes.NAMES, "left over"])
def test_nothing_gets_out(attempts, name):
    problem = attempts[name]
    if problem.startswith("skip"):
        pytest.skip(problem)
    assert not problem


def test_there_are_many_attempts():
    assert len(escapes.NAMES) >= 40
