"""Placeholder."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A section of the config: an unknown key is an error, not silence."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Section(BaseModel):
    """Base of every section: an unknown key is an error, not silence."""

    model_config = ConfigDict(extra="forbid")
