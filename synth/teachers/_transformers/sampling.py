"""How the embedded teacher samples: each row by its own parameters and its own chance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synth.core.errors import UserError, nearest


class Sampling(BaseModel):
    """The sampling parameters that this teacher knows; what is not given is as OpenAI has it."""

    model_config = ConfigDict(extra="forbid")

    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = 0  # 0 and -1 stand for all, as in other engines
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | list[str] = []
    seed: int | None = None
    repetition_penalty: float = Field(default=1.0, gt=0)

    @property
    def stops(self) -> list[str]:
        return [s for s in ([self.stop] if isinstance(self.stop, str) else self.stop) if s]


def read_sampling(parameters: dict[str, Any], name: str) -> Sampling:
    for key in parameters:
        if key not in Sampling.model_fields:
            hint = nearest(key, Sampling.model_fields)
            raise UserError(f"teacher {name}: unknown sampling parameter {key!r}{hint}")
    try:
        return Sampling.model_validate({k: v for k, v in parameters.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"teacher {name}: sampling.{first['loc'][0]}: {first['msg']}") from error


@dataclass(eq=False, slots=True)
class Row:
    """A request on its way: its tokens so far, and how it ends."""

    future: Future[dict[str, Any]]
    ids: list[int]
    prompt: int  # how many of the ids are the prompt
    limit: int  # how many may follow
    sampling: Sampling
    rng: random.Random
    finish: str | None = None
    text: str = ""


def choose_tokens(logits: Any, rows: Sequence[Row]) -> list[int]:
    """Draw the next token of each row, by its own parameters and its own chance."""
    import torch

    logits = logits.float()
    for i, row in enumerate(rows):
        if row.sampling.repetition_penalty != 1:
            seen = torch.tensor(sorted(set(row.ids)), device=logits.device)
            score, by = logits[i, seen], row.sampling.repetition_penalty
            logits[i, seen] = torch.where(score < 0, score * by, score / by)
    kinds: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        cuts = row.sampling.top_k > 0 or row.sampling.top_p < 1
        kind = "greedy" if row.sampling.temperature < 1e-5 else "cut" if cuts else "free"
        kinds.setdefault(kind, []).append(i)
    chosen = [0] * len(rows)
    for kind, index in kinds.items():
        part = logits[index] if len(kinds) > 1 else logits
        if kind == "greedy":
            picked = part.argmax(-1)
        else:
            column = _columns([rows[i] for i in index], part)
            order = None
            weights = (part / column["temperature"]).softmax(-1)
            if kind == "cut":
                weights, order = _nucleus(weights, column["top_k"], column["top_p"])
            total = weights.cumsum(-1)
            picked = torch.searchsorted(total, column["chance"] * total[:, -1:], right=True)
            picked = (picked if order is None else order.gather(-1, picked)).squeeze(-1)
        for i, token in zip(index, picked.tolist(), strict=True):
            chosen[i] = token
    return chosen


def _columns(rows: Sequence[Row], like: Any) -> dict[str, Any]:
    """Return the rows' parameters as columns beside their logits."""
    values = {
        "temperature": [row.sampling.temperature for row in rows],
        "top_p": [row.sampling.top_p for row in rows],
        "top_k": [max(row.sampling.top_k, 0) or like.shape[-1] for row in rows],
        # Kept off 1, which float32 would round it to, and which lies past the last token.
        "chance": [min(row.rng.random(), 1 - 1e-6) for row in rows],
    }
    return {key: like.new_tensor(column).unsqueeze(-1) for key, column in values.items()}


def _nucleus(weights: Any, top_k: Any, top_p: Any) -> tuple[Any, Any]:
    """Return probabilities in falling order, zero outside top_k and top_p, and their tokens."""
    import torch

    vocabulary = weights.shape[-1]
    width = min(1024, vocabulary)
    best, order = weights.topk(width)
    # To sort a whole vocabulary takes as long as half a step of a small model; it is seldom needed.
    if not bool(((top_k <= width) | (best.sum(-1, keepdim=True) >= top_p)).all()):
        best, order = weights.topk(vocabulary)
    best = best * (torch.arange(best.shape[-1], device=best.device) < top_k)
    mass = torch.where(top_k < vocabulary, best.sum(-1, keepdim=True), 1.0)
    before = best.cumsum(-1) - best
    return best * (before < top_p * mass), order
