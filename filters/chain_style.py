"""Measures what makes a chain of thought hard to read: walls of text and code blocks in it.

DeepSeek-R1 (section 2.3.3) drops chains for mixed languages, long paragraphs and code blocks, and
gives no thresholds. Mixed languages are the filter `language`. Of 800 real traces (a mathematics
model on 100 MATH questions) the longest paragraph has 171 words, of 500 MATH solutions written by
people 328; the default is above both. Five of the 800 hold code blocks.
"""

from __future__ import annotations

import re
from typing import ClassVar, NamedTuple

from pydantic import Field

from filters._text.words import words
from filters.base import Check, Context, Figures, FilterConfig, Measures
from synth.core.record import Record

_FENCE = re.compile(r"\s*(?:```+[^`]*|~~~+[^~]*)")
_CLIP = 80


class Config(FilterConfig):
    """Options of `chain_style`."""

    measures: ClassVar[Measures] = {
        "paragraph_words": "long paragraph",
        "code_blocks": "code in the chain",
        "code_share": "code in the chain",
    }

    paragraph_words_max: int | None = Field(
        350, ge=1, description="Most words without a line break"
    )
    code_blocks_max: int | None = Field(0, ge=0, description="Most code blocks in the chain")
    code_share_max: float | None = Field(
        None, ge=0, le=1, description="Largest share of the chain's characters in code blocks"
    )


class _Style(NamedTuple):
    paragraph: str
    paragraph_words: int
    code_blocks: int
    code_characters: int
    code: str


def build(config: Config, context: Context) -> Check:
    """The check. The chain is the reasoning, or the answer where a trace has no reasoning.

    A paragraph ends at a line break: models do not break lines within one. Its words are those of
    letters or digits; a Chinese, Japanese or Korean character counts as a word. Paragraphs within
    code do not count. A code block stands between lines of three backticks or tildes; one that is
    not closed goes on to the end.
    """

    def check(record: Record) -> Figures:
        chain = record.reasoning if record.reasoning is not None else record.answer
        style = _style(chain)
        evidence: dict[str, str] = {"paragraph": style.paragraph[:_CLIP]}
        if style.code_blocks:
            evidence["code"] = style.code[:_CLIP]
        share = style.code_characters / len(chain) if chain else 0.0
        return Figures(
            {
                "paragraph_words": style.paragraph_words,
                "code_blocks": style.code_blocks,
                "code_share": share,
            },
            evidence,
        )

    return check


def _style(chain: str) -> _Style:
    longest, longest_words = "", 0
    blocks = characters = 0
    code = ""
    inside = False
    for line in chain.splitlines(keepends=True):
        fence = _FENCE.fullmatch(line.rstrip())
        if inside or fence:
            characters += len(line)
            if fence and not inside:
                inside, blocks = True, blocks + 1
            elif fence and not line.strip(" \t\r\n`~"):
                inside = False
            elif blocks == 1 and len(code) < _CLIP:
                code += line
        # Most lines are shorter than the longest so far: only a longer one is counted.
        elif len(line) > longest_words and (count := _count(line)) > longest_words:
            longest, longest_words = line, count
    return _Style(longest.strip(), longest_words, blocks, characters, code)


def _count(line: str) -> int:
    return sum(word[0].isalnum() for word in words(line))
