"""Token usage of a response, and its price."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from synth.core.plugins import PluginConfig

# No model takes or writes so many tokens at a time, and none costs so much.
_MOST_TOKENS, _MOST_USD = 10**7, 1_000.0
_CACHED = (
    ("prompt_tokens_details", "cached_tokens"),  # OpenAI, xAI, OpenRouter, vLLM
    ("input_tokens_details", "cached_tokens"),
    ("prompt_cache_hit_tokens",),  # DeepSeek
    ("cached_tokens",),  # Moonshot
    ("cache_read_input_tokens",),  # Anthropic, LiteLLM
)
_REASONING = (
    ("completion_tokens_details", "reasoning_tokens"),
    ("output_tokens_details", "reasoning_tokens"),
    ("reasoning_tokens",),
)
# Of UTF-8, on the mean: about four letters, or one to two Chinese characters.
_BYTES_A_TOKEN = 4


class TokenUsage(NamedTuple):
    """Tokens and dollars of a response as its endpoint counts them; None is not known."""

    prompt: int | None
    completion: int | None  # reasoning included
    usd: float | None
    cached: int = 0  # of the prompt's tokens, those read from the provider's cache
    odd: tuple[str, ...] = ()  # figures that cannot be, and were set aside


def read_usage(raw: Mapping[str, Any], price: Price | None) -> TokenUsage:
    """Reads the usage of a raw response.

    Reasoning that `total_tokens` holds and `completion_tokens` does not (xAI) is counted in the
    latter, as it is paid for. A cost that the provider itself gives (OpenRouter) goes before the
    price. Figures that cannot be (negative, not whole, above ten million) count as not known.

    >>> usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 1110}
    >>> read_usage({"usage": usage}, Price(input=1, output=10))[:3]
    (100, 1010, 0.0102)
    """
    usage = raw.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    odd: list[str] = []

    def tokens(name: str) -> int | None:
        return _tokens(usage, (name,), odd)

    cached = _first(usage, _CACHED, odd)
    prompt, completion = tokens("prompt_tokens"), tokens("completion_tokens")
    total = tokens("total_tokens")
    if prompt is None:
        prompt, details = tokens("input_tokens"), usage.get("input_tokens_details")
        if prompt is not None and not isinstance(details, Mapping):  # Anthropic counts these apart
            prompt += cached + (tokens("cache_creation_input_tokens") or 0)
    completion = tokens("output_tokens") if completion is None else completion
    if prompt is not None and total:
        apart = max(0, total - prompt - (completion or 0))
        if apart and apart == cached != _first(usage, _REASONING, odd):
            prompt += apart  # the prompt was given without what was cached
        else:
            completion = (completion or 0) + apart
    elif completion is not None:
        reasoning = _first(usage, _REASONING, odd)
        completion += reasoning if reasoning > completion else 0
    cached = min(cached, prompt or 0)
    usd = _provider_cost(usage, odd)
    if not usd and price is not None:  # a zero may be what a gateway writes that knows no price
        known = prompt is not None and completion is not None
        usd = price.of(prompt or 0, completion or 0, cached) if known else None
    return TokenUsage(prompt, completion, usd, cached, tuple(odd))


def _tokens(usage: Mapping[str, Any], path: Sequence[str], odd: list[str]) -> int | None:
    """Returns a number of tokens; None where it is not given, or cannot be (then it is noted)."""
    value: Any = usage.get(path[0])
    for name in path[1:]:
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is None:
        return None
    if _is_number(value) and 0 <= value <= _MOST_TOKENS and value == int(value):
        return int(value)
    odd.append(path[-1])
    return None


def _first(usage: Mapping[str, Any], paths: Sequence[Sequence[str]], odd: list[str]) -> int:
    for path in paths:
        if path[0] in usage and (count := _tokens(usage, path, odd)):
            return count
    return 0


def usage_of(
    raw: Mapping[str, Any], price: Price | None
) -> tuple[int | None, int | None, float | None]:
    """Returns prompt tokens, completion tokens and dollars of a raw response; None is not known."""
    return read_usage(raw, price)[:3]


def hidden_reasoning(raw: Mapping[str, Any]) -> int:
    """Returns the tokens of reasoning that a response's usage names; 0 where it names none."""
    usage = raw.get("usage")
    return _first(usage, _REASONING, []) if isinstance(usage, Mapping) else 0


class Estimate(NamedTuple):
    """What a response may have come to beyond what its endpoint counted. Not measured."""

    tokens: int
    usd: float | None  # None where no price is known


def estimate_usage(
    measured: TokenUsage, prompt: Sequence[str], answer: Sequence[str], price: Price | None
) -> Estimate | None:
    """Estimates what an endpoint did not count from the length of the texts; None where it did.

    Args:
        measured: What the endpoint counted.
        prompt: The texts that were sent.
        answer: The texts that came back, reasoning included.
        price: Of its tokens.
    """
    if measured.prompt is not None and measured.completion is not None:
        return None
    sent = _tokens_of(prompt) if measured.prompt is None else 0
    written = _tokens_of(answer) if measured.completion is None else 0
    if price is None or measured.usd is not None:
        return Estimate(sent + written, None)
    whole = sent or measured.prompt or 0, written or measured.completion or 0
    return Estimate(sent + written, price.of(*whole, measured.cached))


def _tokens_of(texts: Sequence[str]) -> int:
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return math.ceil(size / _BYTES_A_TOKEN)


def _provider_cost(usage: Mapping[str, Any], odd: list[str]) -> float | None:
    """Returns the dollars that the provider itself says, or None."""
    cost: Any = usage.get("cost", usage.get("estimated_cost"))
    if isinstance(cost, Mapping):  # Perplexity
        cost = cost.get("total_cost")
    ticks: Any = usage.get("cost_in_usd_ticks")  # xAI
    if cost is None and _is_number(ticks):
        cost = ticks / 1e10
    if cost is None:
        return None
    details = usage.get("cost_details")
    if usage.get("is_byok") is True and isinstance(details, Mapping):  # OpenRouter: its fee alone
        upstream = details.get("upstream_inference_cost")
        cost = cost + upstream if _is_number(cost) and _is_number(upstream) else cost
    if _is_number(cost) and 0 <= cost <= _MOST_USD:
        return float(cost)
    odd.append("cost")
    return None


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


class Price(PluginConfig):
    """What tokens cost, in US dollars a million."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(
        None, ge=0, description="Of input read from the provider's cache; that of input by default"
    )

    def of(self, prompt_tokens: int, completion_tokens: int, cached: int = 0) -> float:
        """Returns the dollars for one response; `cached` are part of the prompt's tokens."""
        cheaper = self.input if self.cached_input is None else self.cached_input
        new = self.input * (prompt_tokens - cached)
        return (new + cheaper * cached + self.output * completion_tokens) / 1e6
