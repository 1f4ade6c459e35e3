"""Chat templates with `{% generation %}` marks: which one a student takes, and how it renders.

Rendering needs jinja2 alone, so that a preview works where no transformers is installed. What is
rendered here is, character for character, what the student's tokenizer renders with the same
template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from synth.core.errors import UserError, nearest
from synth.core.reasoning import OPEN
from synth.core.record import Message

# A template may write this itself, in the prompt (R1-Distill's does).
OPENING = f"{OPEN}\n"
FOLDER = Path(__file__).parent / "templates"
# What a tokenizer must know for a template, the most telling family first: a tokenizer made from
# another family's keeps tokens of that one (R1-Distill-Llama, Llama 3 taught ChatML).
KNOWN = {
    "r1": ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    "phi4": ("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma3": ("<bos>", "<start_of_turn>", "<end_of_turn>"),
    "phi4_mini": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|tool|>"),
    "phi3": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
}
# The same told from a model's name, where its files cannot be had.
_NAMES = {
    "r1": r"r1[-_]distill",
    "phi4_mini": r"phi[-_]?4[-_]mini",
    "phi4": r"phi[-_]?4",
    "phi3": r"phi[-_]?3",
    "llama3": r"llama[-_]?3",
    "gemma3": r"gemma",
    "chatml": r"",
}
# Noncharacters of Unicode stand for the marks while a template renders.
_LOSS_START, _LOSS_END, _DATA = "\ufdd0", "\ufdd1", "\ufdd2"
_MARKS = re.compile(f"({_LOSS_START}|{_LOSS_END}|{_DATA}\\d+{_DATA})")


@dataclass(frozen=True)
class Piece:
    """A stretch of rendered text."""

    text: str
    has_loss: bool  # whether the student learns it
    is_data: bool  # whether it is the content of a message; else the template wrote it
    turn: int | None  # the message that it belongs to, where it carries loss


def select_template(tokenizer: Any, name: str = "auto") -> str:
    """Selects the chat template that a student takes, and returns its text.

    The name is `auto`, a template that ships with the package, or the path of a Jinja file.

    Raises:
        UserError: `auto` finds no family that it knows, or there is no such template.
    """
    if name != "auto":
        return template_text(name)
    vocabulary = tokenizer.get_vocab()
    for family, needed in KNOWN.items():
        if all(token in vocabulary for token in needed):
            return template_text(family)
    families = "; ".join(f"{name} needs {' '.join(tokens)}" for name, tokens in KNOWN.items())
    raise UserError(
        "student.chat_template: auto cannot choose, the tokenizer has the special tokens of no "
        f"known family ({families}). Name one of {', '.join(sorted(KNOWN))} or give the path of a "
        "Jinja template with {% generation %} marks"
    )


def template_from_name(model: str, name: str = "auto") -> str:
    """Guesses the template that `select_template` takes from the model's name alone."""
    if name == "auto":
        name = next(n for n, sign in _NAMES.items() if re.search(sign, model, re.IGNORECASE))
    return template_text(name)


def template_text(name: str) -> str:
    """Reads the text of a template by its name or path.

    Raises:
        UserError: There is no such template, or it marks nothing with `{% generation %}`.
    """
    path = FOLDER / f"{name}.jinja" if name in KNOWN else Path(name).expanduser()
    if not path.is_file():
        raise UserError(
            f"student.chat_template: no template and no file {name!r}{nearest(name, KNOWN)}"
        )
    text = path.read_text(encoding="utf-8")
    if not re.search(r"\{%-?\s*generation\s*-?%\}", text):
        raise UserError(
            f"student.chat_template: {name} has no {{% generation %}} marks, so nothing would "
            "carry loss. Write {% generation %} before the assistant's content and "
            "{% endgeneration %} after the token that ends its turn, or name one that ships with "
            f"the package ({', '.join(sorted(KNOWN))})"
        )
    return text


def set_chat_template(tokenizer: Any, template: str) -> None:
    """Gives a tokenizer the template, and the token that ends a turn as its end of sequence.

    Base models end with `<|endoftext|>`; a student trained on turns must stop where they end.

    Raises:
        UserError: The template ends a turn with something that is not one token of the student.
    """
    end = end_token(template, tokenizer.special_tokens_map)
    if end not in tokenizer.get_vocab():
        raise UserError(
            f"student.chat_template: the template ends a turn with {end!r}, which is no token of "
            "this student; choose the template of its family"
        )
    tokenizer.chat_template = template
    tokenizer.eos_token = end
    if tokenizer.pad_token is None:
        tokenizer.pad_token = end  # padding carries no loss and is masked out, so any token serves


def end_token(template: str, variables: Mapping[str, Any] | None = None) -> str:
    """Returns what a template writes after an assistant's text, within its generation marks.

    Raises:
        UserError: The template has no generation marks, or nothing follows the text in them.
    """
    turns = [Message(role="user", content="a"), Message(role="assistant", content="b")]
    spans = render_spans(template, turns, variables)
    learned = "".join(text for text, has_loss in spans if has_loss)
    if not learned.startswith("b") or learned == "b":
        raise UserError(
            "student.chat_template: the template must put the assistant's content and the token "
            "that ends the turn between {% generation %} and {% endgeneration %}"
        )
    return learned.removeprefix("b")


def render_spans(
    template: str,
    messages: Sequence[Message],
    variables: Mapping[str, Any] | None = None,
) -> list[tuple[str, bool]]:
    """Renders a conversation in stretches, each with or without loss: see `render_pieces`."""
    pieces = render_pieces(template, messages, variables)
    return [
        ("".join(piece.text for piece in stretch), has_loss)
        for has_loss, stretch in groupby(pieces, key=lambda piece: piece.has_loss)
    ]


def render_pieces(
    template: str,
    messages: Sequence[Message],
    variables: Mapping[str, Any] | None = None,
) -> list[Piece]:
    """Renders a conversation, with what the template wrote told apart from what is data.

    The template renders a placeholder for each text, so that nothing in a text can pass for a part
    of the template. That holds only while texts are rendered as they are; a template that strips,
    cuts or rewrites them would train on something else than the data, and is refused.

    Args:
        template: Text of a chat template with generation marks.
        messages: The conversation; assistant turns hold what `join_trace` gives.
        variables: Names that the template may use, such as `bos_token`.

    Raises:
        UserError: The template is not sound, refuses the conversation, or changes its texts.
    """
    texts, placeholders, masked = [], [], []
    for turn, message in enumerate(messages):
        role, text = message["role"], message["content"]
        if not role.isidentifier():  # it is written as a part of the template
            raise UserError(f"message {turn + 1}: {role[:40]!r} is no name of a role")
        # A template may treat an opened reasoning apart (R1 does), so it gets to see the tag.
        prefix = OPENING if role == "assistant" and text.startswith(OPENING) else ""
        texts.append(text.removeprefix(prefix))
        placeholders.append(f"{_DATA}{turn}{_DATA}")
        masked.append(Message(role=role, content=prefix + placeholders[-1]))
    parts = _MARKS.split(_render(template, masked, variables))
    pieces: list[Piece] = []
    has_loss = False
    owner: int | None = None
    for index, part in enumerate(parts):
        if part == _LOSS_START:
            # All that is marked belongs to the turn whose text stands in the marks.
            ahead = (p for p in parts[index:] if p.startswith(_DATA))
            has_loss, owner = True, int(next(ahead, "-1").strip(_DATA))
        elif part == _LOSS_END:
            has_loss, owner = False, None
        elif part.startswith(_DATA):
            pieces.append(Piece(texts[int(part.strip(_DATA))], has_loss, True, owner))
        else:
            pieces.append(Piece(part, has_loss, False, owner))
    # A mark inside a text goes as it came: only the rendering of the true texts is compared.
    rendered = _render(template, list(messages), variables, marks=False)
    if "".join(piece.text for piece in pieces) != rendered:
        raise UserError(
            "student.chat_template: the template changes the texts of the conversation (strips, "
            "cuts or rewrites them); one for training must render every content as it is"
        )
    for turn, message in enumerate(messages):
        if placeholders[turn] not in parts:
            raise UserError(
                f"student.chat_template: the template leaves out message {turn + 1}, of the role "
                f"{message['role']!r}; one for training must render every message or refuse it"
            )
    return [piece for piece in pieces if piece.text]


def _render(
    template: str,
    messages: list[Message],
    variables: Mapping[str, Any] | None,
    marks: bool = True,
) -> str:
    try:
        names = {"add_generation_prompt": False, **(variables or {})}
        return _compile(template, marks).render(names, messages=messages)
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"student.chat_template: {error}") from error


@lru_cache(maxsize=16)
def _compile(template: str, marks: bool) -> jinja2.Template:
    """A template in a sandbox with what transformers offers to chat templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Marked if marks else _Unmarked, "jinja2.ext.loopcontrols"],
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _refuse(message: str) -> str:
    raise jinja2.TemplateError(message)


class _Unmarked(Extension):
    """`{% generation %}...{% endgeneration %}` that renders what it holds."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as a plain attribute)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Turns the block into a call that gets its text as `caller`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_around")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _around(self, caller: Any) -> str:
        return str(caller())


class _Marked(_Unmarked):
    """The same, with a mark on either side."""

    def _around(self, caller: Any) -> str:
        return f"{_LOSS_START}{caller()}{_LOSS_END}"
