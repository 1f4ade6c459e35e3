"""Proof that a token id means the same to two models.

The rows of a model's output say nothing: Qwen2.5 has 151,936 up to 3B and 152,064 from 7B with one
tokenizer, and the rows above its tokens are padding. So the tokenizers are compared, id by id.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from synth.core.errors import UserError

# Cut alike by two tokenizers, these say that merges, normalisation and handling of spaces agree.
_PROBES = (
    "Then the other theory whether it holds, or rather: therefore we have shown nothing yet.",
    "The sum of 1234567 and 89.5 is 1,234,656.5; so x^2 + y^2 = \\frac{1}{2}.",
    "  def f(a):\n\treturn [a_i for a_i in a]  # don't\r\n\n\n    end   ",
    "naïve café Ελληνικά русский 中文推理 日本語 عربي हिन्दी \U0001f600",
)
_SHOWN = 40


def check_rows(tokenizer: Any, rows: int, used: Iterable[int] = ()) -> None:
    """Raises UserError where a token has no row among a model's embeddings.

    Held against them are the token that ends an answer and the ids in `used`.
    """
    lacking = sorted({id for id in (tokenizer.eos_token_id, *used) if id >= rows})
    if lacking:
        token = tokenizer.convert_ids_to_tokens(lacking[0])
        raise UserError(
            f"student.model: the model has {rows:,} embeddings, and its tokenizer gives {token!r} "
            f"the id {lacking[0]}: tokens were added, and the model was not resized. Do so once "
            "(model.resize_token_embeddings(len(tokenizer)), then model.save_pretrained), or name "
            "a student.chat_template whose tokens the model knows"
        )


def shared_vocabulary(student: Any, teacher: Any) -> int:
    """Counts the ids that two tokenizers share, from 0 on: so many logits of both are compared.

    One of them may know more tokens, all above those of the other.

    Raises:
        UserError: An id stands for another token, or text is cut in another way.
    """
    student_tokens, teacher_tokens = (
        {id: token for token, id in tokenizer.get_vocab().items()}
        for tokenizer in (student, teacher)
    )
    shared = min(max(tokens, default=-1) + 1 for tokens in (student_tokens, teacher_tokens))
    for id in range(shared):
        token, teacher_token = student_tokens.get(id), teacher_tokens.get(id)
        if token != teacher_token:
            raise _differ(
                f"token {id} is {_shown(token)} to the student and {_shown(teacher_token)} to it"
            )
    if not shared:
        raise _differ("one of the two knows no token")
    for probe in _PROBES:
        ids, teacher_ids = (
            list(tokenizer(probe, add_special_tokens=False)["input_ids"])
            for tokenizer in (student, teacher)
        )
        if ids != teacher_ids:
            cut = f"into {len(ids)} and {len(teacher_ids)} tokens"
            raise _differ(f"they cut {probe[:_SHOWN]!r} {cut}")
    return shared


def _shown(token: str | None) -> str:
    return "nothing" if token is None else ascii(token[:_SHOWN])


def _differ(how: str) -> UserError:
    return UserError(
        f"the teacher has another tokenizer than the student: {how}. Soft labels need one "
        "vocabulary; across tokenizers use train.method: on_policy, which compares the text of "
        "tokens (ULD), or train on the teacher's traces alone (sft)"
    )
