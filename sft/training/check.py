"""What a training would refuse, found without weights and data: by what the training itself calls.

A model is a skeleton (`sft.models.student.skeleton`), data is one made-up example.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sft.data.chat_template import OPENING, select_template, set_chat_template
from sft.data.encoding import encode, verify, with_trace
from sft.losses.cross_tokenizer import CrossTokenizer, before_answer
from sft.losses.hidden_states import HiddenStateLoss
from sft.models.student import least, lora, no_adapters, window_of
from sft.models.vocabulary import check_rows
from sft.training.on_policy_checks import check_adapters, check_room, shared_or_cross
from sft.training.teachers import given_weights, shared_with
from synth.config.distillation import HiddenStates, OnPolicy, SoftLabels
from synth.config.train import Student, Train
from synth.core.errors import UserError
from synth.core.record import Message, Record, Task

# Of an example's tokens, those beside the prompt: the least that a trace can be.
_REASONING, _ANSWER = "a", "b"


@dataclass
class Findings:
    """What was looked at, and what is wrong."""

    checked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # not wrong, and good to know before
    problems: list[UserError] = field(default_factory=list)

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Notes a UserError as a problem, and goes on."""
        try:
            yield
        except UserError as error:
            self.problems.append(error)


def check_student(
    tokenizer: Any,
    model: Any,
    student: Student,
    messages: Sequence[Message],
    max_length: int | None,
    findings: Findings,
) -> int | None:
    """Checks template, mask, vocabulary and window of a student on a made-up example.

    The tokenizer is given the template; `model` is a skeleton. Returns how many tokens question and
    answer may have, where there is a limit.
    """
    before = len(findings.problems)
    with findings.collected():
        set_chat_template(tokenizer, select_template(tokenizer, student.chat_template))
        example = encode(
            tokenizer, with_trace(messages, _REASONING, _ANSWER), prompt_turns=len(messages)
        )
        record = Record("made-up", Task("made-up", "?"), [], _REASONING, _ANSWER)
        for problem in verify(tokenizer, record, messages, example):
            findings.problems.append(
                UserError(f"student.chat_template: no example can be trained on: {problem}")
            )
    if len(findings.problems) > before:
        return None
    prompt = sum(label == -100 for label in example.labels)
    findings.checked.append(
        f"chat template: a turn ends with {tokenizer.eos_token}; the mask holds on an example; "
        f"student.prompt takes {prompt} tokens beside the question"
    )
    rows = model.get_input_embeddings().weight.shape[0]
    with findings.collected():
        check_rows(tokenizer, rows, example.input_ids)
        findings.checked.append(f"vocabulary: {len(tokenizer):,} tokens, {rows:,} embeddings")
    return _room(len(example.input_ids), prompt, window_of(model.config), max_length, findings)


def _room(
    shortest: int, prompt: int, window: int | None, max_length: int | None, findings: Findings
) -> int | None:
    """Holds the shortest example against window and `max_length`; returns the room of an answer."""
    limit = least(max_length, window)
    if limit is None:
        return None
    if shortest > limit:
        key, way = "train.max_length", "raise it"
        if limit != max_length:
            key, way = "student.model", "take one with a longer window, or set student.rope.window"
        findings.problems.append(
            UserError(
                f"{key}: {limit} tokens are all that fits, and the prompt with an empty question "
                f"and the shortest trace takes {shortest}; {way}, or shorten student.prompt"
            )
        )
        return None
    findings.checked.append(
        f"window: {limit:,} tokens; {limit - prompt:,} are left for question and trace"
    )
    if max_length and window and max_length > window:
        findings.notes.append(
            f"train.max_length: {max_length:,} is more than the model's window, so {window:,} holds"
        )
    return limit - prompt


def check_methods(
    tokenizer: Any,
    model: Any,
    config: Train,
    messages: Sequence[Message],
    teachers: Mapping[str, tuple[Any, Any]],
    findings: Findings,
) -> None:
    """Checks adapters, and what the method asks of student and teachers together.

    `teachers` has the tokenizer and the skeleton of each teacher that could be looked at.
    """
    on_policy = config.on_policy or OnPolicy()
    for name, (teacher_tokenizer, teacher) in teachers.items():
        with findings.collected():
            if config.method != "on_policy":
                shared = shared_with(tokenizer, name, teacher_tokenizer)
                findings.checked.append(f"train.teachers.{name}: {shared:,} tokens in common")
                continue
            common = shared_or_cross(tokenizer, teacher_tokenizer, on_policy)
            rows = [before_answer(tokenizer, messages, OPENING)]
            if common:
                check_room(rows, on_policy, config.max_length, model, teacher)
                findings.checked.append(f"train.teachers.{name}: {common:,} tokens in common")
                continue
            check_room(rows, on_policy, config.max_length, model)
            cross = CrossTokenizer(tokenizer, teacher_tokenizer)
            check_room([cross.teacher_prompt(messages)], on_policy, None, teacher)
            findings.checked.append(
                f"train.teachers.{name}: another tokenizer, so the loss goes across them (gold)"
            )
    with findings.collected():
        if config.method == "on_policy":
            check_adapters(config)
        elif len(config.teachers) > 1 and (config.soft_labels or SoftLabels()).weights == "given":
            given_weights(config)
    if config.method == "hidden_states":
        options = config.hidden_states or HiddenStates()
        name = options.teacher or next(iter(config.teachers))
        if name in teachers:
            with findings.collected():
                HiddenStateLoss(options, model, teachers[name][1])
                findings.checked.append(f"train.hidden_states: layers of student and {name}")
    with findings.collected():
        check_lora(config, model, findings)


def check_lora(config: Train, model: Any, findings: Findings) -> None:
    """Raises UserError where the adapters do not fit the skeleton of a model, which gets them."""
    if config.lora is None:
        return
    from peft import get_peft_model

    adapters = lora(config, model)
    try:
        adapted = get_peft_model(model, adapters)
    except ValueError as error:
        raise no_adapters(error) from error
    trained, _ = adapted.get_nb_trainable_parameters()
    findings.checked.append(f"train.lora: adapters of {trained:,} parameters")
