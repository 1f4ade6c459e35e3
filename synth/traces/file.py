"""Traces from files: JSON Lines, JSON, CSV or Parquet, compressed or not; a folder, or a glob."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from synth.core.dataset import MANIFEST
from synth.core.errors import UserError, nearest
from synth.core.files import read_json
from synth.core.readers import MAX_BYTES, read_rows
from synth.traces.base import Rows, TraceConfig

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_PACKED = {".gz", ".zst", ".zstd"}
# Beside the data, in folders that the library datasets or we wrote.
_NOT_DATA = {MANIFEST, "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
# The stages of a run that hold traces, the latest first, and their splits in that order.
_STAGES, _SPLITS = ("rewrite", "generate", "import"), ("kept", "train")


class Config(TraceConfig):
    """Options of files."""

    path: str = Field(description="A file, a folder (also a run of ours), or a glob")
    format: Literal["jsonl", "json", "csv", "tsv", "parquet"] | None = Field(
        None, description="Where the files' names do not say it"
    )
    split: str | None = Field(
        None, description="Split of a data set of ours; kept, or else train, by default"
    )
    max_bytes: int = Field(
        MAX_BYTES, ge=1024, description="A longer line or row is skipped, so that memory is bounded"
    )


def build(config: Config) -> Rows:
    """Yields the rows of all files, in the order of their names."""
    for path, format in files(config):
        yield from read_rows(path, format, config.max_bytes)


def inputs(config: Config) -> dict[str, Any]:
    """Returns size and time of change of every file."""
    stats = {str(path): path.stat() for path, _ in files(config)}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def files(config: Config) -> list[tuple[Path, str]]:
    """Lists the files that a config names, and their formats.

    Raises UserError where there are none, their format is not known, or they have several.
    """
    path = Path(config.path)
    if path.is_file():
        return [(path, config.format or _format(path))]
    if path.is_dir():
        paths = _of_ours(path, config.split) or list(_data_in(path, config.format))
        what = "no data file in this folder"
    else:
        paths = sorted(p for p in map(Path, glob.glob(config.path, recursive=True)) if p.is_file())
        what = "no file fits" if glob.has_magic(config.path) else f"no such file{_near(path)}"
    if not paths:
        raise UserError(f"{path}: {what}; known: {', '.join(FORMATS)}, with .gz or .zst too")
    formats = {config.format or _format(path): path for path in paths}
    if len(formats) > 1:
        named = ", ".join(f"{format} ({path.name})" for format, path in sorted(formats.items()))
        raise UserError(f"{path}: files of several formats: {named}; name those of one by a glob")
    return [(path, next(iter(formats))) for path in paths]


def _format(path: Path) -> str:
    """Returns the format that a file's name says."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in FORMATS:
        hint = "; the source `hub` reads what save_to_disk wrote" if path.suffix == ".arrow" else ""
        raise UserError(f"{path}: its format is not known by its name; say it by `format:`{hint}")
    return FORMATS[suffixes[-1]]


def _data_in(folder: Path, format: str | None) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if path.name in _NOT_DATA or any(part.startswith((".", "_")) for part in inside):
            continue
        name = path.with_suffix("") if path.suffix.lower() in _PACKED else path
        if path.is_file() and (format or name.suffix.lower() in FORMATS):
            yield path


def _of_ours(folder: Path, split: str | None) -> list[Path]:
    """Lists the shards of a data set of ours; of a run, of its latest stage that holds traces."""
    stage = next((s for s in _STAGES if (folder / s / MANIFEST).is_file()), None)
    folder = folder / stage if stage else folder
    manifest = read_json(folder / MANIFEST)
    rows = manifest.get("rows") if isinstance(manifest, dict) else None
    if not isinstance(rows, dict) or not (folder / "data").is_dir():
        return []
    split = split or next((name for name in _SPLITS if name in rows), None)
    if split not in rows:
        raise UserError(f"{folder}: no split {split!r}{nearest(str(split), rows)}")
    return sorted((folder / "data").glob(f"{split}-*-of-*.parquet"))


def _near(path: Path) -> str:
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    return nearest(path.name, names[:100])
