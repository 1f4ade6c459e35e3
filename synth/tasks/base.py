"""What every task source is: rows with their place, mapped to tasks by columns."""

from __future__ import annotations

from pydantic import Field

from synth.core.plugins import PluginConfig


class SourceConfig(PluginConfig):
    """Options that every task source has.

    A source's module defines `class Config(SourceConfig)` and `build(config) -> Iterator[Row]`.
    """

    name: str | None = Field(None, description="Name on each task; the file or set by default")
    question: str = Field("question", description="Column of the question")
    answer: str | None = Field(
        "answer", description="Column of the reference answer; null where there is none"
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Further columns for prompts and filters: the name there, and the column here",
    )
    limit: int | None = Field(None, ge=1, description="Take at most so many tasks")
    shuffle: int | None = Field(None, description="Seed; take the tasks in a random order")
