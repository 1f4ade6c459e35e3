"""The advice how to install something works where it is given; names that others took are found."""

import base64
import hashlib
import importlib.util
import json
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from synth.core import installation
from synth.core.installation import install_command, taken_names

ROOT = Path(__file__).resolve().parents[3]

WHEEL_RECORD = "synth_distill-0.1.0.dist-info"


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment's prefix in which our wheel lies; says where it was installed from."""
    site = tmp_path / "site-packages"
    for name in installation.PACKAGES:
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text(f"'''{name}'''\n")
    info = site / WHEEL_RECORD
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: synth-distill\nVersion: 0.1.0\n")
    record(site, info, *(f"{name}/__init__.py" for name in installation.PACKAGES))
    monkeypatch.setattr(installation, "_ROOT", site)
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    # What this process has imported is not what the environment holds.
    found = {name: importlib.util.spec_from_file_location(
        name, site / name / "__init__.py", submodule_search_locations=[str(site / name)]
    ) for name in installation.PACKAGES}  # fmt: skip
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found.get(name) or find(name))

    def installed_from(origin):
        (info / "direct_url.json").write_text(json.dumps(origin))

    installed_from.site = site
    return installed_from


def record(site, info, *files):
    lines = []
    for file in files:
        digest = hashlib.sha256((site / file).read_bytes()).digest()
        lines.append(f"{file},sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()},9")
    (info / "RECORD").write_text("\n".join(lines) + "\n")


PIP = [sys.executable, "-m", "pip", "install"]


def test_a_checkout_installs_itself():
    assert shlex.split(install_command(extra="train")) == [*PIP, "-e", f"{ROOT}[train]"]
    assert shlex.split(install_command("x")) == [*PIP, "x"]
    assert shlex.split(install_command("x", alone=True)) == [*PIP, "--no-deps", "x"]


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ({"url": "file:///a%20b/c", "dir_info": {}}, "/a b/c[train]"),
        (
            {"url": "file:///w/s-0.1-py3-none-any.whl", "archive_info": {}},
            "/w/s-0.1-py3-none-any.whl[train]",
        ),
        (
            {"url": "https://x.org/s.whl", "archive_info": {}},
            "synth-distill[train] @ https://x.org/s.whl",
        ),
        (
            {
                "url": "https://x.org/s.git",
                "vcs_info": {"vcs": "git", "commit_id": "abc", "requested_revision": "v1"},
            },
            "synth-distill[train] @ git+https://x.org/s.git@v1",
        ),
        (
            {"url": "https://x.org/s.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "synth-distill[train] @ git+https://x.org/s.git@abc",
        ),
        (None, "synth-distill[train]"),
    ],
)
def test_the_source_is_the_one_that_it_came_from(environment, origin, source):
    if origin:
        environment(origin)
    assert shlex.split(install_command(extra="train")) == [*PIP, source]


def test_the_tool_is_the_one_that_made_the_environment(environment, tmp_path, monkeypatch):
    environment({"url": "file:///w/s.whl", "archive_info": {}})
    (tmp_path / "uv-receipt.toml").touch()
    assert install_command(extra="eval") == "uv tool install --force '/w/s.whl[eval]'"
    (tmp_path / "pipx_metadata.json").touch()
    assert install_command(extra="eval") == "pipx install --force '/w/s.whl[eval]'"
    assert install_command("wandb") == f"pipx inject {tmp_path.name} wandb"
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pip" else find(name)
    )
    python = shlex.quote(sys.executable)
    assert install_command("m", alone=True) == f"uv pip install --python {python} --no-deps m"


def test_names_that_nobody_took_are_ours(environment):
    assert taken_names() == []


def test_a_package_that_overwrote_ours_is_named(environment):
    site = environment.site
    other = site / "phx_filters-3.4.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: phx-filters\nVersion: 3.4.0\n")
    (site / "filters" / "__init__.py").write_text("from .base import *\n")
    record(site, other, "filters/__init__.py")
    (line,) = taken_names()
    assert line.startswith("the package 'filters' is also in phx-filters")
    assert "pip uninstall phx-filters" in line and "--force-reinstall --no-deps" in line
    # Uninstalling it takes the file along, which was ours before.
    (site / "filters" / "__init__.py").unlink()
    (other / "METADATA").unlink(), (other / "RECORD").unlink(), other.rmdir()
    (line,) = taken_names()
    assert line.startswith("1 files of synth-distill were changed or removed")
    assert "filters/__init__.py" in line


def test_a_folder_on_the_path_that_hides_ours_is_named(tmp_path):
    """The command line says it as well, in place of a traceback."""
    foreign = tmp_path / "filters"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("ANSWER = 42\n")
    code = textwrap.dedent(f"""
        import sys
        sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]
        sys.argv = ["distill", "filter", "dry-run"]
        from synth.cli.app import main
        main()
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert f"the package 'filters' on the path is not ours but {foreign}" in done.stderr
    assert "Traceback" not in done.stderr
