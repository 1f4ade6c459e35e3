"""How this package was installed: the command that adds to it, and what took its names."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import shlex
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "synth-distill"
# The packages that it installs. Their names are generic, and others have taken them as well.
PACKAGES = ("synth", "filters", "sft")
_ROOT = Path(__file__).parents[2]  # a checkout, or site-packages
_OWN_ENVIRONMENT = "install synth-distill into an environment of its own (docs/installation.md)"


def install_command(package: str = "", extra: str = "", alone: bool = False) -> str:
    """Returns the command that installs a package, or an extra of this one, beside this one.

    It is for the environment that runs, with the tool that made it (pip, uv or pipx), and names
    this package by where it came from: a folder, a file, a repository, or an index. `alone` leaves
    out what the package requires.
    """
    target = _source(extra) if extra else [package]
    tool = _tool()
    if extra and tool:
        command = [*tool.split(), "install", "--force"]
    elif tool == "pipx" and not alone:
        command = ["pipx", "inject", Path(sys.prefix).name]
    else:
        command = _pip("install")
    return shlex.join([*command, *(["--no-deps"] if alone else []), *target])


def _pip(command: str) -> list[str]:
    if importlib.util.find_spec("pip") is None:  # uv makes environments without it
        return ["uv", "pip", command, "--python", sys.executable]
    return [sys.executable, "-m", "pip", command]


def _tool() -> str:
    """Names the tool whose application this is, by the file that it leaves in its environment."""
    prefix = Path(sys.prefix)
    if (prefix / "pipx_metadata.json").is_file():
        return "pipx"
    return "uv tool" if (prefix / "uv-receipt.toml").is_file() else ""


def _source(extra: str = "") -> list[str]:
    """Returns the arguments that name this package, by where it was installed from."""
    extras = f"[{extra}]" if extra else ""
    if (_ROOT / "pyproject.toml").is_file():
        return ["-e", f"{_ROOT}{extras}"]
    origin = _direct_url()
    url = str(origin.get("url", ""))
    if not url:
        return [f"{DISTRIBUTION}{extras}"]
    if "vcs_info" in origin:
        version = origin["vcs_info"]
        revision = version.get("requested_revision") or version.get("commit_id")
        at = f"@{revision}" if revision else ""
        return [f"{DISTRIBUTION}{extras} @ {version['vcs']}+{url}{at}"]
    if url.startswith("file:"):
        return [f"{unquote(urlsplit(url).path)}{extras}"]
    return [f"{DISTRIBUTION}{extras} @ {url}"]


def _direct_url() -> dict[str, Any]:
    """Returns what the installer noted of where the package came from (PEP 610); often nothing."""
    from importlib import metadata

    try:
        text = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return {}
    return dict(json.loads(text)) if text else {}


def taken_names() -> list[str]:
    """Says which of our packages another one has overwritten or hides, and what to do."""
    lines = []
    for name in PACKAGES:
        place = _place(name)
        hidden = place != _ROOT / name
        if others := _others(name, anywhere=hidden):
            lines.append(
                f"the package {name!r} is also in {' and '.join(others)}, which hides or "
                f"overwrites ours: {shlex.join([*_pip('uninstall'), *others])}, then {_again()}; "
                f"or {_OWN_ENVIRONMENT}"
            )
        elif hidden:
            lines.append(
                f"the package {name!r} on the path is not ours but {place}: rename it or take it "
                f"off the path, or {_OWN_ENVIRONMENT}"
            )
    if not lines and (altered := _altered()):
        lines.append(
            f"{len(altered)} files of synth-distill were changed or removed since it was "
            f"installed, the first {altered[0]}: {_again()}"
        )
    return lines


def names_are_hidden() -> bool:
    """Tells whether one of our packages would be imported from elsewhere; takes no time."""
    return any(_place(name) != _ROOT / name for name in PACKAGES)


def _place(name: str) -> Path | None:
    """Returns the folder that a package would be imported from."""
    spec = importlib.util.find_spec(name)
    places = (spec and spec.submodule_search_locations) or []
    return Path(next(iter(places))) if places else None


def _others(name: str, anywhere: bool) -> list[str]:
    """Returns the distributions that have a package of this name too: beside ours, or anywhere."""
    from importlib import metadata

    others = set()
    for owner in metadata.packages_distributions().get(name, []):
        if owner.lower().replace("_", "-") == DISTRIBUTION:
            continue
        place = Path(str(metadata.distribution(owner).locate_file(name)))
        if anywhere or place == _ROOT / name:
            others.add(owner)
    return sorted(others)


def _altered() -> list[str]:
    """Returns our files that are not as the wheel had them; none of a checkout."""
    from importlib import metadata

    if (_ROOT / "pyproject.toml").is_file():
        return []
    altered = []
    for file in metadata.files(DISTRIBUTION) or []:
        if file.parts[0] not in PACKAGES or file.hash is None or file.hash.mode != "sha256":
            continue
        path = Path(str(file.locate()))
        digest = hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b""
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
            altered.append(str(file))
    return altered


def _again() -> str:
    """Returns the command that installs this package's own files once more."""
    return shlex.join([*_pip("install"), "--force-reinstall", "--no-deps", *_source()])
