"""Measures how much of an answer is a chat's manners: `Sure!`, `I hope this helps`, `Let me know`.

The table of phrases was made by hand. No sentence of 800 real traces, of 500 MATH solutions and of
2,000 GSM8K solutions is one of them. What refuses or speaks of instructions is the filter
`refusal`.
"""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import Field

from filters._text.words import words
from filters.base import Check, Context, Figures, FilterConfig, Measures
from synth.core.record import Record

_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？]*|[.!?。！？]+")
_FIRST, _LAST = 2, 5
_CLIP = 80
# A sentence that begins so, as one of the first of an answer.
_GREETINGS = (
    r"(?:sure|certainly|absolutely|of course|no problem|got it)"
    r"(?:[!.,:]|$| (?:thing|i |let|here|—))",
    r"(?:okay|ok|alright|all right)(?:!|, (?:let's|here|happy|i ))",
    r"(?:(?:what an?|that's an?|you've asked an?) )?"
    r"(?:great|good|excellent|wonderful|interesting|nice) (?:question|problem)(?:[!.,:]|$)",
    r"(?:i'd|i would|i'll|i'm|i am|it would|it'd) (?:be )?(?:very |more than |my )?"
    r"(?:happy|glad|delighted|pleased|pleasure) to",
    r"(?:thanks|thank you) for (?:your|the|asking|reaching|sharing)",
    r"(?:here|below)(?:'s| is| you go| you'll find) ?(?:(?:one|the|an?|my|your) (?:[a-z-]+,? ){0,3}"
    r"(?:solution|answer|explanation|breakdown|response)\b|(?:to (?:solve|do)|how)\b|[:.!]?$)",
    r"let's (?:tackle|dive|work through|walk through|get started)\b",
    r"当然(?:可以)?[,，!！。]|好的[,，!！。]|没问题|很高兴|很乐意|非常乐意|(?:这是一个)?(?:很)?好问题",
    r".{0,12}我来(?:为你|为您|帮你|帮您|给你|给您)",
)
# A sentence that says so, as one of the first or last.
_OFFERS = (
    r"\bhope (?:this|that|it|these|my)\b.{0,40}?\b(?:help|clarif|answer|useful|clear|make)",
    r"\bhopefully,? (?:this|that|it|my)\b.{0,40}?\b(?:help|clarif|clear|make)",
    r"\blet me know (?:if|in case|whether|should|how)\b",
    r"\bfeel free to (?:ask|reach|contact|let|share|follow)\b|\bask away\b",
    r"\breach out (?:if|with|to me|any ?time|for)\b",
    r"\bif you (?:have|need|want|would like)\b.{0,30}?\b(?:questions?|help|assistance|clarif)",
    r"\b(?:if you'd|if you would) like,? i (?:can|could|will)\b|\bi'm here (?:if|to help|for)\b",
    r"^(?:do you have )?any (?:other |more |further )?questions\b",
    r"\b(?:do not|don't) hesitate to\b",
    r"\bis there anything else\b",
    r"\bwould you like me to\b|\bdo you want me to\b",
    r"\b(?:happy|glad) (?:to|i could) (?:help|assist|explain|walk you)\b",
    r"\byou're (?:very |most )?welcome\b",
    r"\bhave a (?:great|good|nice|wonderful) (?:day|one|time|week)\b",
    r"\bdo(?:es)? (?:this|that|it) (?:answer|help|make sense|clear)\b.{0,20}?\?",
    r"\bhappy (?:learning|coding|studying)\b|\bkeep up the (?:good|great) work\b",
    r"\bgood luck (?:with|on|in)\b|\b(?:wish you|wishing you)\b.{0,20}?\b(?:luck|success|best)",
    r"\bthank you for (?:your question|asking)\b",
    r"希望.{0,20}?(?:帮助|有用|帮到|解答|清楚)",
    r"如果?(?:你|您|还)?.{0,4}?有.{0,10}?(?:疑问|不明白|不清楚|问题).{0,12}?(?:随时|告诉|提问|联系|问我)",
    r"请随时|欢迎.{0,4}?(?:提问|咨询|交流|追问)|祝(?:你|您)(?:学习|好运|考试)|需要我(?:再|继续|进一步)",
)
_GREETING = re.compile("|".join(_GREETINGS), re.IGNORECASE)
_OFFER = re.compile("|".join(_OFFERS), re.IGNORECASE)
_APOSTROPHE = str.maketrans("’", "'")
_MARKS = " \t*_#>\"'“”-"


class Config(FilterConfig):
    """Options of `boilerplate`."""

    measures: ClassVar[Measures] = {"sentences": "boilerplate", "share": "boilerplate"}

    sentences_max: int | None = Field(0, ge=0, description="Most sentences of boilerplate")
    share_max: float | None = Field(
        None, ge=0, le=1, description="Largest share of the answer's words in such sentences"
    )


def build(config: Config, context: Context) -> Check:
    """The check. It reads the answer alone, in English and Chinese.

    A greeting (`Sure!`, `Here is the solution`) counts as one of the first two sentences, an offer
    (`I hope this helps`, `Let me know if`) also as one of the last five. The share is of words,
    marks aside.
    """

    def check(record: Record) -> Figures:
        sentences = list(_SENTENCE.finditer(record.answer))
        told = 0
        found: list[str] = []
        for number, match in enumerate(sentences):
            if _FIRST <= number < len(sentences) - _LAST:
                continue
            sentence = match[0].translate(_APOSTROPHE).strip(_MARKS)
            if _OFFER.search(sentence) or (number < _FIRST and _GREETING.match(sentence)):
                found.append(match[0].strip()[:_CLIP])
                told += _count(match[0])
        share = told / max(1, _count(record.answer)) if found else 0.0
        evidence = {"sentences": found} if found else None
        return Figures({"sentences": len(found), "share": share}, evidence)

    return check


def _count(text: str) -> int:
    return sum(word[0].isalnum() for word in words(text))
