"""What on-policy training refuses before it begins: vocabularies, adapters, room for answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sft.models.layers import bare
from sft.models.student import least, window_of
from sft.models.vocabulary import shared_vocabulary
from synth.config.distillation import OnPolicy
from synth.config.train import Train
from synth.core.errors import UserError


def check_adapters(config: Train) -> None:
    """Raises UserError for adapters that TRL's trainer does not take."""
    adapted = config.lora.target_modules if config.lora else []
    if isinstance(adapted, list) and any(name.endswith("lm_head") for name in adapted):
        raise UserError(
            "train.lora.target_modules: lm_head gets no adapter with method on_policy; leave it out"
        )


def shared_or_cross(tokenizer: Any, teacher_tokenizer: Any, on_policy: OnPolicy) -> int | None:
    """Returns how many ids student and teacher share; None: the loss is to go across tokenizers."""
    if on_policy.trainer == "gold":
        return None
    try:
        shared = shared_vocabulary(tokenizer, teacher_tokenizer)
        if tokenizer.eos_token_id >= shared:
            raise UserError(
                f"the teacher does not know the token {tokenizer.eos_token!r} that ends the "
                "student's answers"
            )
    except UserError as error:
        if on_policy.trainer == "auto":
            return None
        reason = str(error).partition(". ")[0]
        raise UserError(
            f"train.on_policy.trainer: distillation needs one vocabulary, and {reason}. Set "
            "trainer: auto or gold, which compare across tokenizers"
        ) from error
    return shared


def check_room(
    rows: Sequence[Sequence[int]], on_policy: OnPolicy, max_length: int | None, *models: Any
) -> None:
    """Refuses prompts that leave no room: TRL would run over the window, or GOLD cut their head."""
    if not rows:
        raise UserError("train.on_policy: no prompts to answer")
    limit = least(max_length, *(window_of(bare(model).config) for model in models))
    longest, answer = max(map(len, rows)), on_policy.max_new_tokens
    if limit is None or longest + answer <= limit:
        return
    over = sum(len(row) + answer > limit for row in rows)
    room = limit - longest
    way = f"lower max_new_tokens to {room}" if room > 0 else "filter out long questions"
    raise UserError(
        f"train.on_policy: {over} of {len(rows)} prompts leave no room for an answer of "
        f"max_new_tokens: {answer}. The longest has {longest} tokens, and {limit} is all that fits "
        f"(train.max_length, or the window of student or teacher); {way}"
    )
