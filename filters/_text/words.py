"""What several filters read from a text: its words, in any script, and its boxed answers."""

from __future__ import annotations

import re

from synth.core.text.question_text import CJK

_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+|[^\w\s]|_")


def words(text: str) -> list[str]:
    """The words of a text; a Chinese, Japanese or Korean character and a mark are a word each.

    >>> words("So x=12，答案")
    ['So', 'x', '=', '12', '，', '答', '案']
    """
    return _WORD.findall(text)


def count_words(text: str) -> int:
    """How many words a text has, marks aside."""
    return sum(word[0].isalnum() for word in words(text))
