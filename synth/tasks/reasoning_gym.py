"""Tasks from any generator of the package reasoning-gym, with answers that can be checked."""

from __future__ import annotations

import warnings
from typing import Any

from pydantic import Field

from synth.core.errors import MissingPackage, UserError, lacks_package, nearest
from synth.core.readers import Row, Rows
from synth.tasks.base import SourceConfig


class Config(SourceConfig):
    """Options of a generator."""

    generator: str = Field(description="A data set of reasoning-gym, such as chain_sum")
    size: int = Field(500, ge=1, description="How many questions to make")
    seed: int = Field(0, description="Seed of the generator")
    options: dict[str, Any] = Field(
        default_factory=dict, description="The generator's own options, such as min_terms"
    )


def check(config: Config) -> list[str]:
    """Says whether the package is missing."""
    return lacks_package(*_needed(config))


def _needed(config: Config) -> tuple[str, str, str]:
    return "reasoning-gym", "the task source reasoning_gym", "reasoning-gym"


def build(config: Config) -> Rows:
    """Yields the generator's entries: question, answer, and its metadata as columns."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of what it imports in its turn
            import reasoning_gym
            from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise MissingPackage(*_needed(config)) from error
    if config.generator not in DATASETS:
        hint = nearest(config.generator, DATASETS)
        raise UserError(f"reasoning-gym has no generator {config.generator!r}{hint}")
    try:
        entries = reasoning_gym.create_dataset(
            config.generator, size=config.size, seed=config.seed, **config.options
        )
    except (TypeError, AssertionError, ValueError) as error:
        raise UserError(f"reasoning-gym {config.generator}: {error}") from error
    for number, entry in enumerate(entries):
        # The index is left out: the same question drawn twice is one question.
        metadata = {k: v for k, v in entry["metadata"].items() if k != "source_index"}
        values = {"question": entry["question"], "answer": entry["answer"]}
        yield Row(f"{config.generator}[{number}]", {**metadata, **values})
