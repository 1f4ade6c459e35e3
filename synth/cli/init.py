"""`distill init`: writes a commented config to start from."""

from __future__ import annotations

import glob
import json
import re
from pathlib import Path

from synth.config.yaml_file import config_names
from synth.core.errors import UserError, nearest
from synth.core.files import near_file
from synth.core.prompts import shipped

_TEMPLATES = Path(__file__).parent / "_templates"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def write_config(name: str, base: str | None, traces: str | None) -> Path:
    """Writes `NAME.yaml` into the working folder and returns its path.

    It starts from the shipped config `base`, from a template for `traces` (a file, a folder or a
    glob), or else from one for an API. Raises UserError where there is such a file already.
    """
    name = name.removesuffix(".yaml").removesuffix(".yml")
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot name a run: expected letters, digits, ., _ and -, as in my-run"
        )
    path = Path(f"{name}.yaml")
    if path.exists():
        free = next(
            f"{name}-{n}" for n in range(2, 10_000) if not Path(f"{name}-{n}.yaml").exists()
        )
        raise UserError(f"{path} is there already, and nothing is overwritten: distill init {free}")
    if base is not None and traces is not None:
        raise UserError("--from and --traces are two ways to begin: give one")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_text(name, path, base, traces))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error
    return path


def _text(name: str, path: Path, base: str | None, traces: str | None) -> str:
    if base is not None:
        if base not in config_names():
            raise UserError(f"no shipped config {base!r}{nearest(base, config_names())}")
        text = (shipped("configs") / f"{base}.yaml").read_text(encoding="utf-8")
        lines = [line for line in text.splitlines(keepends=True) if "$schema=" not in line]
        return re.sub(r"(?m)^name: .*$", f"name: {name}", "".join(lines), count=1)
    is_hub = traces is not None and not glob.glob(traces) and traces.count("/") == 1
    if traces is not None and not is_hub and not glob.glob(traces, recursive=True):
        raise UserError(f"{traces}: no such file{near_file(Path(traces))}")
    template = _TEMPLATES / ("api.yaml" if traces is None else "traces.yaml")
    text = template.read_text(encoding="utf-8")
    if is_hub:
        text = text.replace("source: file ", "source: hub ").replace("path: TR", "dataset: TR")
    return (
        text.replace("name: NAME", f"name: {name}")
        .replace("TRACES", json.dumps(traces or "", ensure_ascii=False))
        .replace("FILE", str(path))
    )
