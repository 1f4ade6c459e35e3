"""On-policy distillation: the student answers, and learns at each token what its teacher says.

TRL's DistillationTrainer generates and trains (Agarwal et al. 2023, arXiv 2306.13649); here it gets
our prompts, our order, our loss and our stops. Where the tokenizers differ, the loss is GOLD's
(`sft.losses.cross_tokenizer`). What is done otherwise than in TRL, and why: docs/on-policy.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from sft.data.chat_template import OPENING
from sft.losses.cross_tokenizer import CrossTokenizer, before_answer
from sft.models.layers import bare
from sft.models.student import lora
from sft.models.vocabulary import shared_vocabulary
from sft.training.monitor import TrainingMonitor, follow
from sft.training.on_policy_trainer import trainer_class
from sft.training.trainer import arguments
from synth.config.distillation import OnPolicy
from synth.config.train import Train
from synth.core.errors import UserError
from synth.core.record import Message


def build_on_policy(
    model: Any,
    tokenizer: Any,
    teacher: Any,
    teacher_tokenizer: Any,
    prompts: Sequence[list[Message]],
    config: Train,
    folder: Path,
    seed: int,
    watch: TrainingMonitor,
) -> Any:
    """The trainer of a student that learns on its own answers.

    Args:
        model: The student.
        tokenizer: Its tokenizer, with the template of the training.
        teacher: The teacher's model, on whatever device.
        teacher_tokenizer: Its tokenizer; across tokenizers it is given the template of its family.
        prompts: What the student answers, each once an epoch.
        config: The section `train`.
        folder: Where checkpoints go.
        seed: Seed of order, answers, adapters and dropout.
        watch: What counts, logs and stops.

    Returns:
        A `transformers.Trainer`; its `train(resume_from_checkpoint=...)` trains.

    Raises:
        UserError: Nothing to answer, a prompt that leaves no room for an answer, or tokenizers
            that differ where `trainer: distillation` is set.
    """
    from transformers.trainer_callback import PrinterCallback

    how = config.on_policy or OnPolicy()
    shared = _shared(tokenizer, teacher_tokenizer, how)
    _refuse_head(config)
    rows = [before_answer(tokenizer, messages, OPENING) for messages in prompts]
    _refuse_long(rows, how, config.max_length, model, *([teacher] if shared else []))
    data: list[dict[str, Any]] = [{"prompt": row} for row in rows]
    cross = None
    if not shared:
        cross = CrossTokenizer(tokenizer, teacher_tokenizer)
        for example, messages in zip(data, prompts, strict=True):
            example["teacher_prompt"] = cross.teacher_prompt(messages)
        _refuse_long([example["teacher_prompt"] for example in data], how, None, teacher)
    trainer = trainer_class()(
        model=model,
        args=_arguments(config, how, folder, seed, _not_sampled(model, tokenizer, shared)),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora(config, model),
        callbacks=[follow(watch)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.teach(teacher, how, seed, watch, shared, cross)
    return trainer


# --- what is refused ------------------------------------------------------------------------------


def _shared(tokenizer: Any, teacher_tokenizer: Any, how: OnPolicy) -> int | None:
    """How many ids student and teacher share; None where the loss is to go across tokenizers."""
    if how.trainer == "gold":
        return None
    try:
        shared = shared_vocabulary(tokenizer, teacher_tokenizer)
        if tokenizer.eos_token_id >= shared:
            raise UserError(
                f"the teacher does not know the token {tokenizer.eos_token!r} that ends the "
                "student's answers"
            )
    except UserError as error:
        if how.trainer == "auto":
            return None
        reason = str(error).partition(". ")[0]
        raise UserError(
            f"train.on_policy.trainer: distillation needs one vocabulary, and {reason}. Set "
            "trainer: auto or gold, which compare across tokenizers"
        ) from error
    return shared


def _refuse_head(config: Train) -> None:
    """Refuses adapters on the output layer, which TRL's trainer does not take."""
    wanted = config.lora.target_modules if config.lora else []
    if isinstance(wanted, list) and any(name.endswith("lm_head") for name in wanted):
        raise UserError(
            "train.lora.target_modules: lm_head gets no adapter with method on_policy; leave it out"
        )


def _refuse_long(
    rows: Sequence[Sequence[int]], how: OnPolicy, most: int | None, *models: Any
) -> None:
    """Refuses prompts that leave no room: TRL would run over the window, or GOLD cut their head.

    Args:
        rows: The prompts' tokens.
        how: With the longest answer.
        most: Tokens of prompt and answer together, or None.
        models: Those that read them, each with its window.
    """
    if not rows:
        raise UserError("train.on_policy: no prompts to answer")
    configs = [bare(model).config.get_text_config() for model in models]
    windows = [getattr(config, "max_position_embeddings", None) for config in configs]
    limit = min((known for known in (most, *windows) if known), default=None)
    longest = max(map(len, rows))
    if limit is None or longest + how.max_new_tokens <= limit:
        return
    over = sum(len(row) + how.max_new_tokens > limit for row in rows)
    room = limit - longest
    way = f"lower max_new_tokens to {room}" if room > 0 else "filter out long questions"
    raise UserError(
        f"train.on_policy: {over} of {len(rows)} prompts leave no room for an answer of "
        f"max_new_tokens: {how.max_new_tokens}. The longest has {longest} tokens, and {limit} is "
        f"all that fits (train.max_length, or the window of student or teacher); {way}"
    )


def _not_sampled(model: Any, tokenizer: Any, shared: int | None) -> list[int]:
    """Rows of the output that stand for no token, or for none that the teacher has.

    Sampled, they would be no text, and an index that the teacher lacks.
    """
    rows = bare(model).get_output_embeddings().weight.shape[0]
    if shared is not None:
        return list(range(shared, rows))
    known = set(tokenizer.get_vocab().values())
    return [row for row in range(rows) if row not in known]


def _arguments(
    config: Train, how: OnPolicy, folder: Path, seed: int, not_sampled: list[int]
) -> Any:
    """The sections `train` and `train.on_policy` in TRL's words."""
    from transformers import TrainingArguments
    from trl import DistillationConfig

    common = arguments(config, folder, seed)
    values = {f.name: getattr(common, f.name) for f in fields(TrainingArguments) if f.init}
    return DistillationConfig(
        **{
            **values,
            "num_train_epochs": config.epochs,
            "max_completion_length": how.max_new_tokens,
            "temperature": how.temperature,
            "generation_kwargs": {"suppress_tokens": not_sampled} if not_sampled else None,
        }
    )
