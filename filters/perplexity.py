"""How surprising a trace is to the student, and how much its question helps (IFD)."""

from __future__ import annotations

import math
import re
import threading
from typing import Any, ClassVar

from pydantic import Field, model_validator

from filters._text.prose import clip
from filters.base import Check, Context, Figures, FilterConfig, Measures
from synth.core.errors import UserError
from synth.core.reasoning import join_trace
from synth.core.record import Message, Record

# Logits are made for so many numbers at a time (128 MB in float32), whatever the trace's length.
_LOGITS = 2**25
_MOST_AT_ONCE = 512
_SURROGATES = re.compile("[\ud800-\udfff]")
_AROUND = 12


class Config(FilterConfig):
    """Options of `perplexity`."""

    needs = ("student", "one_process")
    measures: ClassVar[Measures] = {
        "perplexity": ("likely under the student", "unlikely under the student"),
        "ifd": ("question settles the trace", "question does not help"),
        "surprise": ("no surprise", "too large a surprise"),
    }

    perplexity_min: float | None = Field(None, ge=1, description="Smallest perplexity")
    perplexity_max: float | None = Field(None, ge=1, description="Largest perplexity")
    ifd_min: float | None = Field(None, ge=0, description="Smallest ratio of the two losses")
    ifd_max: float | None = Field(
        1.0, ge=0, description="Largest ratio; over 1 the question makes the trace less likely"
    )
    surprise_min: float | None = Field(None, ge=0, description="Smallest largest loss of a token")
    surprise_max: float | None = Field(
        None, ge=0, description="Largest loss of a single token, in nats"
    )
    ifd: bool = Field(True, description="Also measure without the question, which takes as long")
    window: int = Field(
        4096, ge=64, description="Tokens that a token's loss may depend on, if the student takes so"
    )
    tokens_max: int = Field(
        32768, ge=1, description="Of a longer trace only so many tokens from its start are read"
    )

    @model_validator(mode="after")
    def _measured(self) -> Config:
        bounds = {"ifd_min", "ifd_max"} & self.model_fields_set
        if not self.ifd and any(getattr(self, name) is not None for name in bounds):
            raise ValueError("ifd is false, so no bound on it can hold")
        return self


def build(config: Config, context: Context) -> Check:
    """The measurement: mean loss of the trace's tokens under the student, in nats.

    `perplexity` is its exponential, `surprise` the largest loss of one token, and `ifd` the
    Instruction-Following Difficulty of Li et al. (2023, arXiv 2308.12032, section 2.2): the mean
    loss given the question over the mean loss without it.

    Loss is of the trace's own tokens, think tags included, and not of the chat template's. Where
    question and trace are longer than `window`, the trace goes through in windows that each begin
    with the question (its last quarter of a window where it is longer) and repeat the half of a
    window before, so that no token is scored with less than that.
    """
    return _Perplexity(config, context)


class _Perplexity:
    def __init__(self, config: Config, context: Context) -> None:
        self._config, self._student = config, context.student
        self._lock = threading.Lock()

    def __call__(self, record: Record) -> Figures:
        text = _SURROGATES.sub("\ufffd", join_trace(record.reasoning, record.answer))
        with self._lock:
            model, tokenizer = self._student()
            trace = tokenizer(text, add_special_tokens=False)["input_ids"]
            tokens = len(trace)
            trace = trace[: self._config.tokens_max]
            question = _SURROGATES.sub("\ufffd", record.task.question)
            losses = losses_of(model, prompt_of(tokenizer, question), trace, self._config.window)
            if not losses:
                return Figures({"perplexity": None, "ifd": None, "surprise": None})
            alone: list[float] = []
            if self._config.ifd:
                alone = losses_of(model, prompt_of(tokenizer, ""), trace, self._config.window)
            worst = max(range(len(losses)), key=losses.__getitem__)
            position = worst + len(trace) - len(losses)
            words = tokenizer.decode(trace[max(0, position - _AROUND) : position + 1])
        # The first token has no loss without the question where nothing at all precedes it.
        both = min(len(losses), len(alone))
        without = math.fsum(alone)
        ifd = math.fsum(losses[len(losses) - both :]) / without if without > 0 else None
        loss = math.fsum(losses) / len(losses)
        evidence = {
            "tokens": tokens,
            "read": len(trace),
            "loss": round(loss, 6),
            "surprise": {"token": position, "up_to_it": clip(words[-80:])},
        }
        values = {"perplexity": math.exp(min(loss, 700)), "ifd": ifd, "surprise": losses[worst]}
        return Figures(values, evidence)


def prompt_of(tokenizer: Any, question: str) -> list[int]:
    """The tokens before a trace: the question as the student is asked it, or as if it were empty.

    Without a chat template they are the tokenizer's opening token and the question.
    """
    if tokenizer.chat_template:
        turns = [Message(role="user", content=question)]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ids = tokenizer(f"{question}\n\n", add_special_tokens=False)["input_ids"] if question else []
    return [*([] if first is None else [first]), *ids]


def losses_of(model: Any, prompt: list[int], trace: list[int], window: int) -> list[float]:
    """The loss in nats of each token of a trace after a prompt; of the first too if there is one.

    The model sees at most `window` tokens at a time; see `build`. Raises UserError where it keeps
    no keys and values, so that it cannot read on.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    window = min(window, limit or window)
    prompt = prompt[-(window // 4) :] if len(prompt) + len(trace) > window else prompt
    losses: list[float] = []
    start = 0
    while start < len(trace):
        again = min(start, window // 2)
        new = trace[start : start + window - len(prompt) - again]
        ids = prompt + trace[start - again : start] + new
        losses += _losses(model, ids, max(1, len(ids) - len(new)))
        start += len(new)
    return losses


def _losses(model: Any, ids: list[int], first: int) -> list[float]:
    """The losses of the tokens from the index `first` on, which is 1 at least."""
    import torch
    from torch.nn.functional import cross_entropy

    size = model.config.get_text_config().vocab_size
    chunk = max(1, min(_MOST_AT_ONCE, _LOGITS // size))
    losses: list[float] = []
    past = None
    with torch.inference_mode():
        for start in range(0, len(ids) - 1, chunk):
            stop = min(len(ids) - 1, start + chunk)
            inputs = torch.tensor([ids[start:stop]], device=model.device)
            # Read on from the keys and values: what a chunk needs does not grow with the trace.
            output = model(input_ids=inputs, past_key_values=past, use_cache=True)
            past = getattr(output, "past_key_values", None)
            if past is None:
                raise UserError("perplexity: the student keeps no keys and values to read on from")
            skip = max(0, first - 1 - start)
            if skip < stop - start:
                targets = torch.tensor(ids[start + 1 + skip : stop + 1], device=model.device)
                logits = output.logits[0, skip:].float()
                losses += cross_entropy(logits, targets, reduction="none").tolist()
    return losses
