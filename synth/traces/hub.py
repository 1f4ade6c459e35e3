"""Traces from a `datasets` hub id, or from a folder that `save_to_disk` wrote."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from synth.core.errors import UserError
from synth.tasks import hub as task_hub
from synth.traces.base import Row, Rows, TraceConfig


class Config(TraceConfig):
    """Options of a data set read by the library datasets."""

    dataset: str = Field(description="Hub id, or a folder written by save_to_disk")
    subset: str | None = Field(None, description="Configuration of the data set")
    split: str = "train"
    revision: str | None = Field(None, description="Commit, tag or branch of a hub data set")
    streaming: bool = Field(
        False, description="Read over the network as rows are needed; for a `limit` of a big set"
    )


def build(config: Config) -> Rows:
    """Yields one row a record."""
    if config.streaming:
        yield from _streamed(config)
        return
    same = config.model_dump(include={"dataset", "subset", "split", "revision"})
    yield from task_hub.build(task_hub.Config(**same))


def _streamed(config: Config) -> Rows:
    import datasets

    number = 0
    try:
        rows: Any = datasets.load_dataset(
            config.dataset,
            config.subset,
            split=config.split,
            revision=config.revision,
            streaming=True,
        )
        for number, values in enumerate(rows):
            yield Row(f"{config.dataset}[{number}]", dict(values))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        raise UserError(
            f"cannot read the data set {config.dataset!r} from row {number} on: {first}"
        ) from error
