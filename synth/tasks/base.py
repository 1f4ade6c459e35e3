"""What every task source is: rows with their place, mapped to tasks by columns."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, FilePath

from synth.core.errors import UserError
from synth.core.packages import PREFIX, package_file
from synth.core.plugins import PluginConfig


def located(path: Any) -> Any:
    """Returns the path of `package:NAME/FILE`, and any other value as it is."""
    if not (isinstance(path, str) and path.startswith(PREFIX)):
        return path
    try:
        return package_file(path, path)
    except UserError as error:
        raise ValueError(str(error)) from error


# A file of questions: its path, or `package:NAME/FILE` for one that an installed package carries.
QuestionFile = Annotated[FilePath, BeforeValidator(located)]


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
