"""Keeps traces that a pattern matches, or none of that must not."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from filters.base import KEEP, Check, Context, Decision, FilterConfig, cannot_tell, requires
from synth.core.record import Record
from synth.core.text.display import shown

_CLIP = 60


class Config(FilterConfig):
    """Options of `regex`."""

    must: list[str] = Field([], description="Patterns that all have to be found")
    must_not: list[str] = Field([], description="Patterns of which none may be found")
    on: Literal["answer", "reasoning", "both"] = Field(
        "answer", description="Which text is searched; both: each of them by itself, either will do"
    )
    ignore_case: bool = Field(False, description="Letters match in either case")
    timeout: float = Field(
        1.0, gt=0, le=60, description="Seconds that one pattern may search in one trace"
    )

    @field_validator("must", "must_not", mode="before")
    @classmethod
    def _one(cls, patterns: Any) -> Any:
        return [patterns] if isinstance(patterns, str) else patterns

    @model_validator(mode="after")
    def _compiles(self) -> Config:
        if not self.must and not self.must_not:
            raise ValueError("give a pattern under must or must_not")
        if importlib.util.find_spec("regex") is not None:
            for pattern in (*self.must, *self.must_not):
                _compiled(pattern, self.ignore_case)
        return self

    def limit(self) -> float:
        """Seconds that one record may take: each pattern in each text."""
        return 10 + 2 * self.timeout * len(self.must + self.must_not)


check = requires("regex", "regex")


def build(config: Config, context: Context) -> Check:
    r"""The check. Patterns are those of Python's `re`, and search anywhere in the text.

    `.` matches no line's end unless the pattern begins with `(?s)`. A pattern that searches longer
    than its limit is stopped, and the filter cannot tell.
    """
    must = [(text, _compiled(text, config.ignore_case)) for text in config.must]
    must_not = [(text, _compiled(text, config.ignore_case)) for text in config.must_not]

    def check(record: Record) -> Decision:
        texts = {"answer": record.answer, "reasoning": record.reasoning or ""}
        searched = [texts[config.on]] if config.on != "both" else list(texts.values())

        def first_match(pattern: Any) -> Any:
            matches = (pattern.search(text, timeout=config.timeout) for text in searched)
            return next(filter(None, matches), None)  # an empty match is one

        evidence: dict[str, Any] = {}
        try:
            for pattern, compiled in must_not:
                evidence = {"pattern": pattern}
                if match := first_match(compiled):
                    evidence |= {"found": shown(match[0], _CLIP), "at": list(match.span())}
                    return Decision(False, f"matches: {shown(pattern)}", evidence=evidence)
            for pattern, compiled in must:
                evidence = {"pattern": pattern}
                if not first_match(compiled):
                    return Decision(False, f"does not match: {shown(pattern)}", evidence=evidence)
        except TimeoutError:
            return cannot_tell(f"a pattern took over {config.timeout:g} s", evidence)
        return KEEP

    return check


def _compiled(pattern: str, ignore_case: bool) -> Any:
    import regex

    try:
        return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is no pattern: {error}") from error
