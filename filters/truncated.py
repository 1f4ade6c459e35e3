"""Drops traces that were cut off before their end, by their finish reason or by how they end."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from filters._text.words import words
from filters.base import KEEP, Check, Context, Decision, FilterConfig
from synth.core.finish_reasons import broke_off
from synth.core.reasoning import is_cut, marks
from synth.core.record import Record

_CLIP = 80
# An escaped backslash is read as a pair, so that `\\[2pt]` opens nothing.
_SIGN = re.compile(r"\\(?:begin\{|end\{|[^\s\w])|[{}$]")
_SENTENCE_END = re.compile(r"[.!?。！？…](?=\s|\Z)|[。！？]")
# A bare word or number, a heading or a line of code is no sentence.
_WORDS_OF_A_SENTENCE = 4


class Config(FilterConfig):
    """Options of `truncated`."""

    version = 2

    unknown: bool = Field(
        False, description="Also drop a trace whose endpoint did not say why it ended"
    )
    by_text: Literal["never", "unknown", "always"] = Field(
        "unknown",
        description="When the text's end is judged too: where the endpoint did not say why it "
        "ended, always, or never",
    )


def build(config: Config, context: Context) -> Check:
    """The check. It reads the endpoint's finish reason, and the text where that says nothing.

    Where the reason is `unknown` (the endpoint said nothing) and in records that came from outside,
    which have none, what the trace ends in decides; see `open_ends`.
    """

    def check(record: Record) -> Decision:
        reason = (record.generation.finish_reason if record.generation else "unknown").lower()
        if is_cut(reason):
            return Decision(False, f"truncated: finish reason {reason}")
        if broke_off(reason):
            return Decision(False, f"no answer: finish reason {reason}")
        unknown = reason in {"unknown", "none", ""}
        if config.unknown and unknown:
            return Decision(False, "finish reason unknown")
        by_text = config.by_text == "always" or (config.by_text == "unknown" and unknown)
        if by_text and (left_open := open_ends(record)):
            end = (record.answer.strip() or (record.reasoning or "").strip())[-_CLIP:]
            evidence = {"open": left_open, "end": end}
            return Decision(False, f"ends in the middle: {left_open[0]}", evidence=evidence)
        return KEEP

    return check


def open_ends(record: Record) -> list[str]:
    r"""What a trace leaves open at its end; empty where it reads as whole.

    - `no answer`: reasoning, and nothing behind it
    - `think block`: the answer opens one last and does not close it
    - `code fence`, `environment`, `display`, `brace`, `dollar`: one more is opened than closed. An
      answer with a dollar right before a digit (money) is not asked for dollars.
    - `sentence`: the last line is prose (at least four words, and the answer has ended a sentence
      before), and ends in a letter, a comma or an operator. A number may end a trace.
    """
    answer = record.answer.strip()
    if not answer:
        return ["no answer"] if (record.reasoning or "").strip() else []
    tags = [mark.kind for mark in marks(answer) if mark.kind != "around"]
    left_open = ["think block"] if tags[-1:] == ["open"] else []
    parts = re.split(r"^[ \t]*```", answer, flags=re.MULTILINE)
    if len(parts) % 2 == 0:
        return [*left_open, "code fence"]  # what is open within code says nothing
    prose = "\n".join(parts[::2])
    left_open += _open_signs(prose)
    last = prose.rstrip().rpartition("\n")[2]
    unended = answer[-1].isalpha() or answer[-1] in ",，、+-*/=<>\\&^_"
    if unended and len(words(last)) >= _WORDS_OF_A_SENTENCE and _SENTENCE_END.search(prose):
        left_open.append("sentence")
    return left_open


def _open_signs(text: str) -> list[str]:
    counts = {"environment": 0, "display": 0, "brace": 0, "dollar": 0}
    for sign in _SIGN.finditer(text):
        match sign[0]:
            case "$":
                counts["dollar"] += 1
            case "\\[" | "\\(":
                counts["display"] += 1
            case "\\]" | "\\)":
                counts["display"] -= 1
            case "}":
                counts["brace"] = max(0, counts["brace"] - 1)
            case "{":
                counts["brace"] += 1
            case "\\begin{" | "\\end{":
                counts["environment"] += 1 if sign[0] == "\\begin{" else -1
                counts["brace"] += 1
    if counts["dollar"] % 2 == 0 or re.search(r"\$ ?[\d<.]", text):
        counts["dollar"] = 0
    return [name for name, count in counts.items() if count > 0]
