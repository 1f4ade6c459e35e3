"""Tasks from a `datasets` hub id, or from a folder that `save_to_disk` wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from synth.core.errors import UserError, nearest
from synth.core.readers import Row, Rows
from synth.tasks.base import SourceConfig


class Config(SourceConfig):
    """Options of a data set read by the library datasets."""

    dataset: str = Field(description="Hub id, or a folder written by save_to_disk")
    subset: str | None = Field(None, description="Configuration of the data set")
    split: str = "train"
    revision: str | None = Field(None, description="Commit, tag or branch of a hub data set")


def no_split(dataset: str, split: str, splits: Iterable[str]) -> str:
    """Says that a data set has no such split, and which it has."""
    known = sorted(splits)
    hint = nearest(split, known)
    others = f" it has {', '.join(known)}" if hint.endswith("?") else ""
    return f"{dataset}: no split {split!r}{hint}{others}"


def build(config: Config) -> Rows:
    """Yields one row a record."""
    import datasets

    datasets.disable_progress_bars()
    try:
        if Path(config.dataset).is_dir() and any(
            (Path(config.dataset) / name).exists() for name in ("dataset_dict.json", "state.json")
        ):
            loaded = datasets.load_from_disk(config.dataset)
            if isinstance(loaded, datasets.DatasetDict):
                if config.split not in loaded:
                    raise UserError(no_split(config.dataset, config.split, loaded))
                loaded = loaded[config.split]
        else:
            loaded = datasets.load_dataset(
                config.dataset, config.subset, split=config.split, revision=config.revision
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if splits := re.search(r"Unknown split .*? of \[(.*)\]", str(error)):
            names = re.findall(r"'([^']*)'", splits[1])
            raise UserError(no_split(config.dataset, config.split, names)) from error
        first = str(error).strip().split("\n")[0]
        raise UserError(f"cannot load the data set {config.dataset!r}: {first}") from error
    for number, values in enumerate(loaded):
        yield Row(f"{config.dataset}[{number}]", dict(values))
