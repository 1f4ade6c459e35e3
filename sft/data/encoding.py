"""Which tokens the student learns: encoding, and the proof that the mask is right.

The prompt and each assistant text are tokenized apart. A student that answers sees a finished
prompt and writes the rest, so no token may straddle the two; and a marker such as `<|im_end|>`
that stands in a text is read as those characters, never as the special token.

All assistant turns of a conversation carry loss, except those of the prompt (worked examples).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from sft.data.chat_template import (
    KNOWN,
    OPENING,
    end_token,
    render_pieces,
    render_spans,
    select_template,
    template_from_name,
)
from sft.data.context import DROP_CONTEXT, left_out
from synth.config.train import Student
from synth.core.errors import MissingPackage, UserError
from synth.core.reasoning import CLOSE, join_trace
from synth.core.record import Message, Record, Task

IGNORED = -100
# What a tokenizer takes for blanks beside a token that strips them (Unicode's White_Space).
_BLANKS = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u2028\u2029\u202f\u205f\u3000"
)
_LEFT_OUT = "the student's prompt would leave out "
_NAMED = 3  # records that a refusal names for each kind of problem


@dataclass(slots=True)
class Encoded:
    """Tokens of one training example; their labels are the same, or -100 where there is no loss."""

    input_ids: list[int]
    labels: list[int]


def with_trace(messages: Sequence[Message], reasoning: str | None, answer: str) -> list[Message]:
    """Puts the assistant's turn that the student is to write after a prompt."""
    return [*messages, Message(role="assistant", content=join_trace(reasoning, answer))]


def encode(tokenizer: Any, messages: Sequence[Message], prompt_turns: int = 0) -> Encoded:
    """Encodes a conversation by the template that `set_chat_template` gave the tokenizer.

    Args:
        tokenizer: The student's tokenizer.
        messages: The conversation.
        prompt_turns: How many messages at its head are the prompt and carry no loss.

    Raises:
        UserError: The template refuses the conversation or changes its texts, or one of these has a
            lone surrogate, which no tokenizer reads.
    """
    for turn, message in enumerate(messages):
        try:
            message["content"].encode()
        except UnicodeEncodeError as error:
            raise UserError(f"message {turn + 1} has a lone surrogate at {error.start}") from error
    stretches: list[tuple[list[_Marker | str], bool]] = []
    for piece in render_pieces(tokenizer.chat_template, messages, tokenizer.special_tokens_map):
        has_loss = piece.has_loss and (piece.turn or 0) >= prompt_turns
        parts = [piece.text] if piece.is_data else _split_markers(tokenizer, piece.text)
        if not stretches or stretches[-1][1] != has_loss:
            stretches.append(([], has_loss))
        stretch = stretches[-1][0]
        for part in parts:
            if stretch and isinstance(part, str) and isinstance(stretch[-1], str):
                # Text of the template and of data is one text to the tokenizer, as in a prompt.
                stretch[-1] += part
            else:
                stretch.append(part)
    encoded = Encoded([], [])
    before: _Marker | str | None = None
    for stretch, has_loss in stretches:
        for part, after in zip(stretch, [*stretch[1:], None], strict=True):
            if isinstance(part, _Marker):
                ids = [part.id]
            else:  # what the student writes is learned as it is
                ids = plain_ids(tokenizer, part if has_loss else _stripped(before, part, after))
            encoded.input_ids += ids
            encoded.labels += ids if has_loss else [IGNORED] * len(ids)
            before = part
    return encoded


def preview_spans(
    student: Student, messages: Sequence[Message], reasoning: str | None, answer: str
) -> list[tuple[str, bool]]:
    """Renders the training text of one trace in stretches with and without loss.

    The template is the one that the student's tokenizer chooses; where the tokenizer cannot be
    loaded (no transformers, no network), the one that the model's name suggests.
    """
    template = _preview_template(student.model, student.chat_template, student.trust_remote_code)
    # Stand-ins for what the student's own template may name; the shipped ones name neither.
    variables = {"bos_token": "<bos>", "eos_token": "<eos>"}
    spans = render_spans(template, with_trace(messages, reasoning, answer), variables)
    last = max((i for i, (_, has_loss) in enumerate(spans) if has_loss), default=-1)
    return [
        ("".join(text for _, (text, _) in stretch), is_last)
        for is_last, stretch in groupby(enumerate(spans), key=lambda item: item[0] == last)
    ]


@cache
def _preview_template(model: str, name: str, trust_remote_code: bool) -> str:
    from synth.core.models import load_tokenizer

    try:
        tokenizer = load_tokenizer(model, trust_remote_code) if name == "auto" else None
    except (MissingPackage, UserError):
        tokenizer = None
    return select_template(tokenizer) if tokenizer else template_from_name(model, name)


def verify(
    tokenizer: Any,
    record: Record,
    messages: Sequence[Message],
    encoded: Encoded,
    max_length: int | None = None,
) -> list[str]:
    """Finds what is wrong with one training example, as `kind: detail`.

    The tokens are read back and held against the record and against what the tokenizer's own
    `apply_chat_template` makes of the prompt (`messages`), so that an error of the encoding shows.
    """
    problems = []
    learned = [i for i, label in enumerate(encoded.labels) if label != IGNORED]
    if max_length is not None and len(encoded.input_ids) > max_length:
        problems.append(f"longer than {max_length} tokens: {len(encoded.input_ids)}")
    if not learned:
        return [*problems, "nothing carries loss"]
    ids = [encoded.input_ids[i] for i in learned]
    if ids != [encoded.labels[i] for i in learned]:
        problems.append("labels are not the tokens they stand under")
    prompt = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=True
    )
    encoded_prompt = encoded.input_ids[: learned[0]]
    prompt_ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if encoded_prompt != prompt_ids:
        before, wanted = _decode(tokenizer, encoded_prompt), _decode(tokenizer, prompt_ids)
        if _holds_marker(tokenizer, messages):
            # The tokenizer takes a marker in a text for the token, and may strip beside it.
            before, wanted = "".join(before.split()), "".join(wanted.split())
        if before != wanted:
            problems.append(_prompt_problem(record, before, wanted))
        elif not _holds_marker(tokenizer, messages):
            problems.append("the prompt's tokens differ from those that the student will be given")
    return problems + _loss_problems(tokenizer, record, prompt, ids)


def _prompt_problem(record: Record, before: str, wanted: str) -> str:
    """Why the text before the loss is not the prompt that the student will be given."""
    if record.reasoning is None and wanted.startswith(before) and wanted.endswith(OPENING):
        return "no reasoning, but the template's prompt opens it with <think>"
    if wanted.startswith(before):
        return "tokens of the prompt carry loss"
    return "the loss does not start where the prompt ends"


def _loss_problems(tokenizer: Any, record: Record, prompt: str, ids: list[int]) -> list[str]:
    """What is wrong with the tokens that carry loss."""
    problems = []
    trace = join_trace(record.reasoning, record.answer)
    if record.reasoning is not None and prompt.endswith(OPENING):
        trace = trace.removeprefix(OPENING)
    end = end_token(tokenizer.chat_template, tokenizer.special_tokens_map)
    text = _decode(tokenizer, ids)
    if text != _normal(tokenizer, trace) + end and (lost := _unwritable(tokenizer, trace)):
        return [f"the tokenizer has no token for a character of the trace: {lost!r}"]
    if ids[-1] != tokenizer.eos_token_id or tokenizer.eos_token != end:
        problems.append(f"the end token {end} carries no loss")
    if record.reasoning is not None and CLOSE not in text:
        problems.append(f"{CLOSE} carries no loss")
    if not record.answer.strip():
        problems.append("the answer is empty")
    elif _normal(tokenizer, record.answer) not in text:
        problems.append("the answer carries no loss, or not all of it")
    if not problems and text != _normal(tokenizer, trace) + end:
        problems.append("the text with loss is not the trace and the end token")
    return problems


def check_dataset(
    tokenizer: Any,
    records: Iterable[Record],
    render_prompt: Callable[[Task], list[Message]],
    max_length: int | None = None,
    drop_context: bool = False,
) -> Iterator[Encoded]:
    """Encodes all training data and refuses it where an example is not sound.

    The examples come in the order of the records. A consumer must not start before the last one.

    Args:
        tokenizer: The student's tokenizer with its template.
        records: The traces.
        render_prompt: What the student sees before it answers a task.
        max_length: Most tokens an example may have.
        drop_context: Whether what a trace has beside its question may be left out.

    Raises:
        UserError: After the last example, where any has a problem or there is none; says how many
            have which, and names the first by id.
    """
    ids_by_kind: dict[str, list[str]] = defaultdict(list)
    bad = total = 0
    for record in records:
        total += 1
        prompt = render_prompt(record.task)
        messages = with_trace(prompt, record.reasoning, record.answer)
        try:
            encoded = encode(tokenizer, messages, prompt_turns=len(prompt))
        except UserError as error:
            problems = [f"it cannot be rendered: {error}"]
        else:
            problems = verify(tokenizer, record, prompt, encoded, max_length)
        if not drop_context:
            problems += [f"{_LEFT_OUT}{kind}" for kind in left_out(record, prompt)]
        for problem in problems:
            kind, _, detail = problem.partition(": ")
            ids_by_kind[kind].append(f"{record.id} ({detail})" if detail else record.id)
        bad += bool(problems)
        if not ids_by_kind:
            yield encoded
    if not total:
        raise UserError("training data: no records to train on; did the filters keep any?")
    if ids_by_kind:
        lines = [f"training data: {bad} of {total} records cannot be trained on as they are"]
        for kind, ids in sorted(ids_by_kind.items(), key=lambda item: -len(item[1])):
            more = ", ..." if len(ids) > _NAMED else ""
            lines.append(f"  {len(ids)} x {kind}: {', '.join(ids[:_NAMED])}{more}")
        if any(kind.startswith(_LEFT_OUT) for kind in ids_by_kind):
            lines.append(DROP_CONTEXT)
        raise UserError("\n".join(lines))


class _Marker(NamedTuple):
    """A token that only the template may write."""

    id: int
    strips_before: bool
    strips_after: bool


class _Markers(NamedTuple):
    """The markers of a tokenizer.

    They are its special tokens and the families' marks of turns, which not every family counts as
    special (R1-Distill's `<｜User｜>` is none).
    """

    known: dict[str, _Marker]
    pattern: re.Pattern[str]
    plain: re.Pattern[str]  # those that are not special: the tokenizer sees them in any text


@lru_cache(maxsize=4)
def _markers(tokenizer: Any) -> _Markers:
    families = {token for tokens in KNOWN.values() for token in tokens}
    known, plain = {}, []
    for index, token in tokenizer.added_tokens_decoder.items():
        if token.special or token.content in families:
            known[token.content] = _Marker(index, token.lstrip, token.rstrip)
        if not token.special and token.content in families:
            plain.append(token.content)
    return _Markers(known, _any_of(known), _any_of(plain))


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")


def _split_markers(tokenizer: Any, text: str) -> list[_Marker | str]:
    """A template's text with the markers in their places."""
    markers = _markers(tokenizer)
    return [markers.known.get(part, part) for part in markers.pattern.split(text) if part]


def _holds_marker(tokenizer: Any, messages: Sequence[Message]) -> bool:
    pattern = _markers(tokenizer).pattern
    return any(pattern.search(message["content"]) for message in messages)


def _stripped(before: _Marker | str | None, text: str, after: _Marker | str | None) -> str:
    """A text between two markers, which may take the blanks beside them (those of Phi do)."""
    if isinstance(before, _Marker) and before.strips_after:
        text = text.lstrip(_BLANKS)
    if isinstance(after, _Marker) and after.strips_before:
        text = text.rstrip(_BLANKS)
    return text


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokenizes a text in which no marker is seen, only its characters."""
    # The tokenizer looks away from the special ones; the others are cut behind their first letter.
    cuts = [match.start() + 1 for match in _markers(tokenizer).plain.finditer(text)]
    parts = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
    rows = tokenizer(parts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [token for row in rows for token in row]


def _unwritable(tokenizer: Any, text: str) -> str | None:
    """The first character that does not come back from the tokenizer (it drops or replaces it)."""
    for character in dict.fromkeys(_normal(tokenizer, text)):
        if _decode(tokenizer, plain_ids(tokenizer, character)) != character:
            return character
    return None


def _decode(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _normal(tokenizer: Any, text: str) -> str:
    """A text as the tokenizer reads it (Qwen's composes accents, for one).

    SentencePiece's spaces, written `▁` and one of them put at the head, are spaces again.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = getattr(backend, "normalizer", None)
    if normalizer is None:
        return text
    result: str = normalizer.normalize_str(text)
    if "▁" in normalizer.normalize_str(" "):
        result = result.replace("▁", " ")
        if normalizer.normalize_str("a") != "a":
            result = result.removeprefix(" ")
    return result
