"""Account of what responses came to: measured by their endpoints, or estimated where it lacks."""

from __future__ import annotations

import json
import sys
from typing import Any, NamedTuple

from synth.core.compression import parse_json
from synth.core.record import Request
from synth.core.usage import Estimate, TokenUsage, estimate_usage, read_usage
from synth.generate.spec import GenerationSpec
from synth.generate.stats import GenerationStats
from synth.store.responses import ResponseMetadata


class Spent(NamedTuple):
    """What one response came to."""

    usage: TokenUsage  # as the endpoint counts it
    estimate: Estimate | None  # of what it did not count

    @property
    def tokens(self) -> int:
        """Tokens as they count for caps."""
        estimated = self.estimate.tokens if self.estimate else 0
        return (self.usage.prompt or 0) + (self.usage.completion or 0) + estimated

    @property
    def usd(self) -> float:
        """Dollars as they count for caps; 0 where no price is known."""
        estimated = self.estimate.usd if self.estimate else None
        return (self.usage.usd or 0.0) + (estimated or 0.0)


class UsageAccount:
    """Reads what responses came to, counts it, and says once of a teacher what is estimated."""

    def __init__(self, spec: GenerationSpec, counts: GenerationStats) -> None:
        self._spec, self._counts = spec, counts
        self._warned: set[str] = set()

    def read(
        self,
        name: str,
        request: Request,
        raw: dict[str, Any],
        parsed: tuple[str | None, str, str],
    ) -> Spent:
        """Return what a teacher's response came to; `parsed` is what `parse_completion` gives."""
        price = self._spec.prices.get(name)
        usage, estimate = read_usage(raw, price), None
        if usage.prompt is None or usage.completion is None:
            reasoning, answer, _ = parsed
            sent = [str(message["content"]) for message in request.messages]
            estimate = estimate_usage(usage, sent, [reasoning or "", answer], price)
        return Spent(usage, estimate)

    def metadata(self, name: str, spent: Spent, latency: float) -> ResponseMetadata:
        """Return what the store notes of a response: nothing that was estimated."""
        return ResponseMetadata(self._spec.run, name, *spent.usage[:3], latency)

    def count(self, name: str, spent: Spent) -> None:
        """Count a response that was bought."""
        counts, (usage, estimate) = self._counts, spent
        counts.prompt_tokens += usage.prompt or 0
        counts.completion_tokens += usage.completion or 0
        counts.cost_usd += usage.usd or 0.0
        counts.unpriced += usage.usd is None
        if usage.odd:
            counts.odd_usage.update(usage.odd)
            self._warn(name, f"gives figures of usage that cannot be ({', '.join(usage.odd)})")
        if estimate is not None:
            counts.estimated += 1
            counts.estimated_tokens += estimate.tokens
            counts.estimated_usd += estimate.usd or 0.0
            self._warn(name, "does not count its tokens (no usage in its answers)")

    def no_answer(
        self, name: str, answer: dict[str, Any] | bytes, latency: float
    ) -> tuple[bytes, ResponseMetadata, Spent] | None:
        """Return what to store of a response that is no answer; None where it cost nothing."""
        try:
            raw = parse_json(answer) if isinstance(answer, bytes) else answer
            usage = read_usage(raw, self._spec.prices.get(name))
            body = answer if isinstance(answer, bytes) else json.dumps(raw).encode()
        except (ValueError, TypeError, AttributeError):
            return None
        if not usage.completion and not usage.usd:
            return None
        counts, spent = self._counts, Spent(usage, None)
        counts.no_answers += 1
        counts.prompt_tokens += usage.prompt or 0
        counts.completion_tokens += usage.completion or 0
        counts.cost_usd += usage.usd or 0.0
        return body, self.metadata(name, spent, latency), spent

    def _warn(self, name: str, text: str) -> None:
        """Say once of a teacher that its usage is estimated, where a cap or a price is set."""
        capped = self._spec.budget or self._spec.options[name].budget
        if name in self._warned or not (capped or self._spec.prices.get(name)):
            return
        self._warned.add(name)
        text = (
            f"teacher {name} {text}: what lacks is estimated from the length of the texts, for "
            "the caps alone; figures that are shown as tokens and cost are without it"
        )
        self._counts.warnings.append(text)
        sys.stderr.write(f"warning: {text}\n")
