"""What runs in a worker of `json_schema`: reading and validating, which may take for ever there."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NamedTuple

_SHOWN = 160
_FENCE = re.compile(r"```[^\S\n]*(?:json[c5]?)?[^\S\n]*\n", re.IGNORECASE)


class Outcome(NamedTuple):
    """What came of it."""

    status: str  # `valid`, `invalid`, `no JSON`, or else why nobody can tell
    why: str = ""  # what is wrong, in a few words
    where: str = ""  # the place of it in the answer's JSON, as keys and indices
    found: str = ""  # where the JSON stood: `whole answer`, `code block`, `in the text`


def prepare() -> None:
    """Imports the library, so that the first call does not pay for it."""
    import jsonschema  # noqa: F401


def validate(answer: str, schema: Any) -> Outcome:
    """Reads the JSON of an answer and holds it to a schema; nothing is ever fetched."""
    try:
        value, found = last_json(answer)
    except ValueError as error:
        return Outcome("no JSON", str(error))
    except RecursionError:
        return Outcome("the JSON is nested too deep")
    try:
        problem = violation(value, schema)
    except RecursionError:
        return Outcome("the schema or the JSON is nested too deep", found=found)
    except Unusable as error:
        return Outcome(str(error), found=found)
    if problem is None:
        return Outcome("valid", found=found)
    return Outcome("invalid", problem[0], problem[1], found)


class Unusable(Exception):
    """A schema that is none, or refers to what is not in it."""


def violation(value: Any, schema: Any) -> tuple[str, str] | None:
    """The worst violation and its place, or None.

    Raises:
        Unusable: The schema is none, or refers to what is not in it.
        RecursionError: Schema or value are nested too deep, or the schema refers to itself alone.
    """
    from jsonschema.exceptions import SchemaError, best_match
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    if not isinstance(schema, dict | bool):
        raise Unusable("the schema is no object")
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
        # A registry of its own is what keeps the library from fetching what a schema refers to.
        error = best_match(kind(schema, registry=Registry()).iter_errors(value))
    except SchemaError as fault:
        raise Unusable(f"the schema is none: {_short(fault.message)}") from fault
    except Unresolvable as fault:
        raise Unusable("the schema refers to something outside it") from fault
    except re.error as fault:
        raise Unusable(f"the schema has a pattern that is none: {fault}") from fault
    if error is None:
        return None
    return _short(error.message), "/".join(map(str, error.absolute_path))[:_SHOWN]


def last_json(answer: str) -> tuple[Any, str]:
    """The JSON of an answer, and where it stood.

    It is the whole answer, else the last code block that is JSON, else the last object in the text.

    Raises:
        ValueError: There is none, with what is wrong.
    """
    trouble = "no JSON in the answer"
    try:
        return parse(answer.strip()), "whole answer"
    except ValueError as error:
        if answer.strip().startswith(("{", "[")):
            trouble = str(error)
    starts = [match.end() for match in _FENCE.finditer(answer)]
    for start in reversed(starts[-20:]):
        end = answer.find("```", start)
        try:
            return parse(answer[start : end if end >= 0 else None].strip()), "code block"
        except ValueError as error:
            trouble = str(error) if answer[start : start + 1] in "{[" else trouble
    value, fault = _last_object(answer)
    if value is None:
        raise ValueError(fault or trouble)
    return value, "in the text"


def parse(text: str) -> Any:
    """JSON as RFC 8259 has it, without NaN, and with no key twice.

    Raises:
        ValueError: It is none, with what is wrong.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos}") from error


def _last_object(text: str) -> tuple[Any, str]:
    """The last object that stands in no other, or None and what is wrong with it."""
    last, fault, start = None, "", text.find("{")
    while start >= 0:
        end = start + 1
        try:
            last, end = _DECODER.raw_decode(text, start)
            fault = ""
        except (json.JSONDecodeError, RecursionError):
            pass
        except ValueError as error:  # a key twice, or NaN: JSON but for that
            last, fault = None, str(error)
        start = text.find("{", end)
    return last, fault


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(value := dict(pairs)) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {_short(repr(twice))} stands there twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)
