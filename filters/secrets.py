"""Finds personal data and credentials in traces; drops the trace, or masks them.

Everything is found by its own form, and by its check digits where it has them: a number of
mathematics is no phone and no card. Formulas are not searched for numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field

from filters._text.pii import FORMS, LONG, LONG_NUMBER, SECRET, Kind
from filters._text.prose import blanked
from filters.base import KEEP, Check, Context, Decision, FilterConfig
from synth.core.record import Record

_PERSONAL: list[Kind] = ["email", "phone", "iban", "card", "ssn", "cn_id", "ip"]
_MOST = 1000


class Config(FilterConfig):
    """Options of `secrets`."""

    kinds: list[Kind] = Field(
        [*_PERSONAL, *SECRET], min_length=1, description="What is looked for; all by default"
    )
    mask: bool = Field(
        False, description="Keep the trace, with `[EMAIL]` and the like in the places"
    )


class Span(NamedTuple):
    """A find: its place in characters, and what it is."""

    start: int
    end: int
    kind: Kind


def build(config: Config, context: Context) -> Check:
    """The check. Evidence holds the places and kinds of what was found, never the text itself.

    With `mask` a trace is kept and `edit` writes over the places; one with more than 1,000 is
    dropped all the same. The question is not searched. Not found: names, postal addresses, and
    numbers that only their meaning makes personal.
    """
    kinds = frozenset(config.kinds)

    def check(record: Record) -> Decision:
        spans = [
            {"part": part, "start": span.start, "end": span.end, "kind": span.kind}
            for part, text in (("reasoning", record.reasoning or ""), ("answer", record.answer))
            for span in find(text, kinds)
        ]
        if not spans:
            return KEEP
        counts = Counter(str(span["kind"]) for span in spans)
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        evidence = {"spans": spans[:_MOST]}
        if config.mask and len(spans) <= _MOST:
            return Decision(True, f"masked: {listed}", len(spans), None, evidence)
        reason = "secret" if counts.keys() & set(SECRET) else "personal data"
        return Decision(False, f"{reason}: {listed}", len(spans), 0, evidence)

    return check


def edit(config: Config, record: Record, evidence: Mapping[str, Any]) -> None:
    """Writes `[KIND]` over what was found in a trace that is kept.

    Raises ValueError where a span lies outside of its text, which then is not the one judged.
    """
    if not config.mask:
        return
    for part in ("reasoning", "answer"):
        text = getattr(record, part) or ""
        pieces, position = [], 0
        for span in evidence.get("spans", ()):
            if span["part"] == part:
                if not position <= span["start"] < span["end"] <= len(text):
                    raise ValueError(f"the {part} is not the text in which secrets were found")
                pieces += [text[position : span["start"]], f"[{span['kind'].upper()}]"]
                position = span["end"]
        if pieces:
            setattr(record, part, "".join(pieces) + text[position:])


def find(text: str, kinds: frozenset[Kind]) -> list[Span]:
    """What of these kinds stands in a text, in order; where two overlap, the first, then longer."""
    prose = blanked(text, ("math",), False) if kinds & set(_PERSONAL) else text
    absent = frozenset[Kind]() if LONG_NUMBER.search(prose) else LONG
    spans: list[Span] = []
    for form in FORMS:
        kind = form.kind
        searched = text if kind in ("email", *SECRET) else prose
        if kind in kinds - absent and (not form.needs or any(n in searched for n in form.needs)):
            matches = filter(form.holds, form.pattern.finditer(searched))
            spans += (Span(*match.span(), kind) for match in matches)
    apart: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if not apart or span.start >= apart[-1].end:
            apart.append(span)
    return apart
