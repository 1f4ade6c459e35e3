"""Learning from a teacher with another tokenizer: GOLD's loss on answers aligned by their bytes.

Universal Logit Distillation (Boizard et al. 2024, arXiv 2402.12030, section 3) compares sorted
probabilities, for which no token need mean the same to both; GOLD aligns the two rows of tokens
first. The loss is TRL's; what it is fed is ours, and docs/on-policy.md says why.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from functools import cache, cached_property
from itertools import accumulate
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sft.data.chat_template import OPENING, select_template, set_chat_template
from sft.data.encoding import IGNORED, encode, plain_ids
from synth.core.errors import UserError
from synth.core.record import Message

Read = Callable[[Any, Any], tuple[Any, Any]]
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Aligned(NamedTuple):
    """The head of an answer, up to the last byte at which both tokenizers cut and read alike.

    It has the tokens of both, and the byte after each of them.
    """

    student: list[int]
    teacher: list[int]
    student_ends: list[int]
    teacher_ends: list[int]


class CrossTokenizer:
    """A student's answers as its teacher reads them, and their loss.

    Args:
        student: The student's tokenizer, with its template.
        teacher: The teacher's; it is given the template of its family unless it has one with
            generation marks.

    Raises:
        UserError: The teacher's family is not known, or a tokenizer is of a build whose tokens
            cannot be told in bytes.
    """

    def __init__(self, student: Any, teacher: Any) -> None:
        if "generation" not in (teacher.chat_template or ""):
            try:
                set_chat_template(teacher, select_template(teacher))
            except UserError as error:
                reason = str(error).removeprefix("student.chat_template: ")
                raise UserError(f"train.teachers: the teacher's chat template: {reason}") from error
        self.student, self.teacher = student, teacher
        self.student_bytes = token_bytes(student, "student")
        self.teacher_bytes = token_bytes(teacher, "teacher")
        self.student_rows = max(student.get_vocab().values()) + 1
        self.teacher_rows = max(teacher.get_vocab().values()) + 1

    @cached_property
    def criterion(self) -> Any:
        """GOLD's loss; importing it takes seconds."""
        return _criterion()

    def teacher_prompt(self, messages: Sequence[Message]) -> list[int]:
        """The teacher's tokens up to where the student starts to write, in the teacher's format."""
        prompts = (before_answer(self.student, messages, text) for text in ("", OPENING))
        without, opened = map(len, prompts)
        prompt = before_answer(self.teacher, messages)
        return prompt + plain_ids(self.teacher, OPENING) if opened > without else prompt

    def align(self, answer: Sequence[int], ends: Collection[int]) -> Aligned:
        """Aligns an answer, given in the student's tokens, with the teacher's.

        Of `ends`, the tokens that end an answer, one that stands last goes with the teacher's own
        where the text before it is read alike.
        """
        ended = bool(answer) and answer[-1] in ends
        student = list(answer[:-1] if ended else answer)
        student_bytes = [self.student_bytes(token) for token in student]
        raw = b"".join(student_bytes)
        teacher = plain_ids(self.teacher, raw.decode("utf-8", "replace"))
        teacher_bytes = [self.teacher_bytes(token) for token in teacher]
        if teacher_bytes and teacher_bytes[0].startswith(b" ") and not raw.startswith(b" "):
            # The space that SentencePiece puts at the head of a text.
            teacher_bytes[0] = teacher_bytes[0][1:]
        student_ends = list(accumulate(map(len, student_bytes)))
        teacher_ends = list(accumulate(map(len, teacher_bytes)))
        text = b"".join(teacher_bytes)
        unlike = (i for i, (a, b) in enumerate(zip(raw, text, strict=False)) if a != b)
        alike = next(unlike, min(len(raw), len(text)))
        last = max((e for e in {*student_ends} & {*teacher_ends} if e <= alike), default=0)
        n, m = (bisect_right(e, last) if last else 0 for e in (student_ends, teacher_ends))
        pair = Aligned(student[:n], teacher[:m], student_ends[:n], teacher_ends[:m])
        if ended and last == len(raw) == len(text):
            end = (answer[-1], self.teacher.eos_token_id, last, last)
            for column, value in zip(pair, end, strict=True):
                column.append(value)
        return pair

    def loss(
        self,
        states: Tensor,
        head: Callable[[Any], Any],
        ids: Tensor,
        labels: Tensor,
        prompts: Sequence[list[int]],
        ends: Collection[int],
        read: Read,
    ) -> Tensor:
        """Sums the loss of a batch over its answers.

        Of an answer it is the mean, over stretches of text that both tokenizers cut out, of the
        summed differences between the two sorted rows of probabilities. A stretch of several
        tokens has the probabilities of its last one, times those of the tokens before.

        Args:
            states: The student's last hidden states, (answers, length, width).
            head: From these to logits.
            ids: Prompts and answers, (answers, length).
            labels: The same, -100 outside of the answers.
            prompts: The teacher's tokens of each prompt.
            ends: Tokens that end an answer.
            read: From ids and mask to the teacher's last hidden states and what makes logits.
        """
        answers = [row[row != IGNORED].tolist() for row in labels]
        pairs = [self.align(answer, ends) for answer in answers]
        rows = [
            torch.tensor([*prompt, *pair.teacher])
            for prompt, pair in zip(prompts, pairs, strict=True)
        ]
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        with torch.no_grad():
            teacher_states, teacher_head = read(pad_sequence(rows, batch_first=True), mask)

        def answer_loss(student_part: Any, teacher_part: Any, pair: Aligned) -> Any:
            student = head(student_part)[:, : self.student_rows].float()
            with torch.no_grad():
                teacher = teacher_head(teacher_part)[:, : self.teacher_rows].float()
                teacher = teacher.to(student.device)
            return self.uld(student, teacher, pair)

        total = states.sum() * 0.0  # a gradient also where nothing is aligned
        for row, pair in enumerate(pairs):
            if not pair.student:
                continue
            start = int((labels[row] != IGNORED).int().argmax()) - 1
            student_part = states[row, start : start + len(pair.student)]
            first = len(prompts[row]) - 1
            teacher_part = teacher_states[row, first : first + len(pair.teacher)]
            # The logits of one answer at a time; they are computed again on the way back.
            total = total + checkpoint(
                answer_loss, student_part, teacher_part, pair, use_reentrant=False
            )
        return total

    def uld(self, student: Tensor, teacher: Tensor, pair: Aligned) -> Tensor:
        """Computes the loss of one answer by TRL, from the logits that predict its tokens.

        Both are (tokens, vocabulary), each in its own tokens and vocabulary.
        """

        def row(values: Sequence[int], head: int) -> Any:
            return torch.tensor([[head, *values]], device=student.device)

        loss: Tensor = self.criterion(
            student_logits=student[None],
            teacher_logits=teacher[None],
            # TRL's first token of an answer is predicted from the position before.
            student_labels=row(pair.student, IGNORED),
            teacher_labels=row(pair.teacher, IGNORED),
            student_input_ids=row(pair.student, 0),
            teacher_input_ids=row(pair.teacher, 0),
            # It reads where tokens end, and nothing else of them.
            student_byte_offsets=row(pair.student_ends, 0)[..., None].expand(-1, -1, 2),
            teacher_byte_offsets=row(pair.teacher_ends, 0)[..., None].expand(-1, -1, 2),
        )
        return loss


def before_answer(tokenizer: Any, messages: Sequence[Message], answer: str = "") -> list[int]:
    """Encodes a prompt up to where the assistant's text carries loss.

    `answer` is what the assistant starts with; a template may count `<think>` to the prompt.
    """
    whole = [*messages, Message(role="assistant", content=answer)]
    encoded = encode(tokenizer, whole, prompt_turns=len(messages))
    first = next(i for i, label in enumerate(encoded.labels) if label != IGNORED)
    return encoded.input_ids[:first]


def token_bytes(tokenizer: Any, whose: str) -> Callable[[int], bytes]:
    """Makes a function from a token to the bytes that it stands for, part of a character or not.

    Raises:
        UserError: The tokenizer is neither byte-level BPE nor SentencePiece.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = repr(getattr(backend, "decoder", None))
    added = tokenizer.added_tokens_decoder
    table = {character: byte for byte, character in bytes_to_unicode().items()}
    byte_level = "ByteLevel" in decoder
    if not byte_level and "▁" not in decoder:
        raise UserError(
            f"train.on_policy: the {whose}'s tokenizer is neither byte-level BPE nor "
            "SentencePiece, so its tokens cannot be held against another's. Train on the "
            "teacher's traces (train.method: sft)"
        )

    @cache
    def spell(token: int) -> bytes:
        if token in added:
            return str(added[token].content).encode()
        piece: str = tokenizer.convert_ids_to_tokens(token)
        if byte_level:
            return bytes(table[character] for character in piece)
        if byte := _BYTE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        return piece.replace("▁", " ").encode()

    return spell


def _criterion() -> Any:
    """GOLD's loss."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gold.gold_trainer import ULDLoss

    return ULDLoss(
        SimpleNamespace(
            uld_crossentropy_weight=0.0,
            uld_distillation_weight=1.0,
            uld_student_temperature=1.0,
            uld_teacher_temperature=1.0,
            # Set, they leave out the last token of every answer, also of one that was cut off.
            uld_skip_student_eos=False,
            uld_skip_teacher_eos=False,
            use_extended_uld=True,
            # "observed" takes the logits one place late: those of the token after.
            uld_token_merge_strategy="bayesian",
        )
    )
