"""What every task source is: rows with their place, mapped to tasks by columns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from synth.core.errors import UserError, nearest
from synth.core.files import PACKAGE_PREFIX, package_file
from synth.core.plugins import PluginConfig

# Files that another source reads.
_SOURCES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


def _existing(path: Path) -> Path:
    """Raises pydantic's error where there is nothing at a path."""
    if not path.exists():
        raise PydanticCustomError("path_not_file", "no such file")
    return path


def _file(path: Path) -> Path:
    if _existing(path).is_dir():
        names = sorted(other.name for other in path.iterdir())[:20]
        raise ValueError(f"is a folder; name a file in it{nearest(path.name, names)}")
    return path


def wrong_source(path: Path, name: str) -> Path:
    """Raises ValueError where a file's name says that another source reads it."""
    source = _SOURCES.get(path.suffix.lower(), name)
    if source != name:
        raise ValueError(f"is no {name.upper()}: `source: {source}` reads it")
    return path


def located(path: Any) -> Any:
    """Returns the path of `package:NAME/FILE`, and any other value as it is."""
    if not (isinstance(path, str) and path.startswith(PACKAGE_PREFIX)):
        return path
    try:
        return package_file(path, path)
    except UserError as error:
        raise ValueError(str(error)) from error


# Where questions lie: a path, or `package:NAME/FILE` for a file that an installed package carries.
QuestionFile = Annotated[Path, BeforeValidator(located), AfterValidator(_file)]
QuestionPath = Annotated[Path, BeforeValidator(located), AfterValidator(_existing)]  # or a folder


class SourceConfig(PluginConfig):
    """Options that every task source has.

    A source's module defines `class Config(SourceConfig)` and `build(config) -> Iterator[Row]`.
    """

    name: str | None = Field(None, description="Name on each task; the file or set by default")
    question: str = Field(
        "question", description="Column of the question; dots lead into nested ones (data.text)"
    )
    answer: str | None = Field(
        "answer", description="Column of the reference answer; null where there is none"
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Further columns for prompts and filters: the name there, and the column here",
    )
    limit: int | None = Field(None, ge=1, description="Take at most so many tasks")
    shuffle: int | None = Field(None, description="Seed; take the tasks in a random order")
