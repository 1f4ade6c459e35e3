"""What every trace source is: rows with their place, which a layout turns into records."""

from __future__ import annotations

from pydantic import Field, field_validator

from synth.core.errors import nearest
from synth.core.plugins import PluginConfig
from synth.core.readers import Row, Rows, Skipped
from synth.traces._layouts.known import LAYOUTS, ROLES

__all__ = ["Row", "Rows", "Skipped", "TraceConfig", "printable", "skip"]


class TraceConfig(PluginConfig):
    """Options that every trace source has.

    A source's module defines `class Config(TraceConfig)` and `build(config) -> Iterator[Row]`, and
    may define `inputs(config)`: what its rows depend on beside its options, as JSON values.
    """

    name: str | None = Field(None, description="Name in each record's id; the file by default")
    layout: str = Field(
        "auto", description="How the columns are laid out; auto finds it by the first rows"
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Where the layout does not say it: what is there, and the name of its column; "
        + ", ".join(ROLES),
    )
    per_sample: list[str] = Field(
        default_factory=list,
        description="Lists beside a list of responses: each record gets its own entry of them",
    )
    limit: int | None = Field(None, ge=1, description="Take at most so many traces")

    @field_validator("layout")
    @classmethod
    def _known_layout(cls, name: str) -> str:
        known = {layout.name for layout in LAYOUTS} | {"auto"}
        if name not in known:
            raise ValueError(f"no layout {name!r}{nearest(name, known)}")
        return name

    @field_validator("columns")
    @classmethod
    def _known_roles(cls, columns: dict[str, str]) -> dict[str, str]:
        for role in columns:
            if role not in ROLES:
                raise ValueError(f"nothing is called {role!r} here{nearest(role, ROLES)}")
        return columns


def printable(text: str, max_chars: int = 200) -> str:
    """A text for one line of a message: without what would steer a terminal, and short."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:max_chars])


def skip(place: str, reason: str) -> Skipped:
    """A row or a sample that gave no record: where, and why in the form `kind: details`."""
    return Skipped(printable(place, 1000), printable(reason))
