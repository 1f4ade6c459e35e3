"""Token usage of a response, and its price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from synth.core.plugins import PluginConfig


def usage_of(
    raw: Mapping[str, Any], price: Price | None
) -> tuple[int | None, int | None, float | None]:
    """Returns prompt tokens, completion tokens and dollars of a raw response; None is not known.

    Figures that cannot be (negative, not whole, above 2^40) count as not known.
    """
    usage = raw.get("usage")
    usage = usage if isinstance(usage, dict) else {}

    def whole(key: str) -> int | None:
        value = usage.get(key)
        sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40
        return value if sound else None

    prompt, completion = whole("prompt_tokens"), whole("completion_tokens")
    if price is None or prompt is None or completion is None:
        return prompt, completion, None
    return prompt, completion, price.of(prompt, completion)


class Price(PluginConfig):
    """What tokens cost, in US dollars a million."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Returns the dollars for one response."""
        return (self.input * prompt_tokens + self.output * completion_tokens) / 1e6
