"""Keeps traces whose final answer equals the reference as mathematics (by math-verify)."""

from __future__ import annotations

from pydantic import Field

from filters._workers.pool import longest
from filters.answers.equivalence import MathAnswer
from filters.base import Context, FilterConfig, requires


class Config(FilterConfig):
    """Options of `math_answer`."""

    version = 2
    verifies = True

    timeout: float = Field(5, gt=0, le=600, description="Seconds that one comparison may take")
    require_box: bool = Field(
        False, description="Only \\boxed{...} counts; else the last expression where no box is"
    )

    def limit(self) -> float:
        """Seconds that one record may take: a lost worker is replaced once."""
        return longest(self.timeout)


check = requires("math-verify", "math_answer")


def build(config: Config, context: Context) -> MathAnswer:
    """The check; see `MathAnswer`."""
    return MathAnswer(config.timeout, config.require_box, context.workers)
