"""Drops traces that were cut off before their end, by their finish reason or by how they end."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from filters._text.words import words
from filters.base import KEEP, Check, Context, Decision, FilterConfig
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

    `length`, `max_tokens` and their kin are dropped in any case of letters. Where the reason is
    `unknown` (the endpoint said nothing) and in records that came from outside, which have none,
    what the trace ends in decides; see `open_ends`. With `unknown` set such traces are dropped
    whatever they end in.
    """

    def check(record: Record) -> Decision:
        reason = (record.generation.finish_reason if record.generation else "unknown").lower()
        if is_cut(reason):
            return Decision(False, f"truncated: finish reason {reason}")
        said_nothing = reason in {"unknown", "none", ""}
        if config.unknown and said_nothing:
            return Decision(False, "finish reason unknown")
        judged = config.by_text == "always" or (config.by_text == "unknown" and said_nothing)
        if judged and (found := open_ends(record)):
            end = (record.answer.strip() or (record.reasoning or "").strip())[-_CLIP:]
            evidence = {"open": found, "end": end}
            return Decision(False, f"ends in the middle: {found[0]}", evidence=evidence)
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

    Time is linear in the text.
    """
    answer = record.answer.strip()
    if not answer:
        return ["no answer"] if (record.reasoning or "").strip() else []
    found = []
    tags = [mark.kind for mark in marks(answer) if mark.kind != "around"]
    if tags and tags[-1] == "open":
        found.append("think block")
    parts = re.split(r"^[ \t]*```", answer, flags=re.MULTILINE)
    if len(parts) % 2 == 0:
        return [*found, "code fence"]  # what is open within code says nothing
    prose = "\n".join(parts[::2])
    found += _open_signs(prose)
    last = prose.rstrip().rpartition("\n")[2]
    unended = answer[-1].isalpha() or answer[-1] in ",，、+-*/=<>\\&^_"
    if unended and len(words(last)) >= _WORDS_OF_A_SENTENCE and _SENTENCE_END.search(prose):
        found.append("sentence")
    return found


def _open_signs(text: str) -> list[str]:
    counts = dict.fromkeys(("environment", "display", "brace"), 0)
    dollars = 0
    for sign in _SIGN.finditer(text):
        mark = sign[0]
        if mark == "$":
            dollars += 1
        elif mark.endswith(("begin{", "end{")):
            counts["environment"] += 1 if mark == "\\begin{" else -1
            counts["brace"] += 1
        elif mark in ("\\[", "\\("):
            counts["display"] += 1
        elif mark in ("\\]", "\\)"):
            counts["display"] -= 1
        elif mark == "{":
            counts["brace"] += 1
        elif mark == "}":
            counts["brace"] = max(0, counts["brace"] - 1)
    found = [name for name, count in counts.items() if count > 0]
    if dollars % 2 and not re.search(r"\$ ?[\d<.]", text):
        found.append("dollar")
    return found
