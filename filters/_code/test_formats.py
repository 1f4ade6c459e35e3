"""The layouts in which data sets keep the tests of a coding question, found by themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Fields that hold tests, the first that does counts; those in a row are joined.
_FIELDS = (
    ("test", "entry_point"),
    ("test_list",), ("tests",), ("test",), ("test_cases",), ("input_output",),
    ("official_tests",), ("verification_info",),
    ("public_tests", "private_tests", "generated_tests"),
    ("public_test_cases", "private_test_cases"),
)  # fmt: skip
_INPUTS, _OUTPUTS = ("inputs", "input"), ("outputs", "output", "expected_output")
_FUNCTION = ("fn_name", "func_name", "function_name")
_SETUP = ("test_setup_code", "test_imports")


@dataclass
class Tests:
    """The tests of one question."""

    kind: Literal["asserts", "calls", "stdin"]  # Python code, calls of one function, whole programs
    cases: list[tuple[Any, Any]] = field(default_factory=list)  # input or arguments, and result
    function: str | None = None  # the name that is called
    pieces: list[str] = field(default_factory=list)  # code of `asserts`, one assertion or many each
    prompt: str | None = None  # code that the answer may be a completion of


def find(metadata: Mapping[str, Any], question: str, name: str | None = None) -> Tests | None:
    """Return the tests in what a data set says of a question, None where there are none.

    Known are HumanEval (`prompt`, `test`, `entry_point`), MBPP (`test_list`, `test_setup_code`),
    assertions and `test_...` functions in `tests` or `test`, and pairs of input and output: APPS
    and TACO (`input_output`, also as JSON text, with `fn_name` for calls), lists of
    `{"input", "output"}`, CodeContests, LiveCodeBench and OpenR1's `verification_info`. `name` is
    the field that holds them where it is known; code to be completed may stand in the question.

    Raises:
        ValueError: There are tests that cannot be understood; the message says why.
    """
    entry = metadata.get("entry_point")
    entry = entry if isinstance(entry, str) and entry.isidentifier() else None
    for fields in [(name,)] if name else _FIELDS:
        values = [_parsed(metadata.get(field)) for field in fields]
        if fields == ("test", "entry_point") and not (values[0] and entry):
            continue
        values = [value for value in values[: 1 if entry else None] if value]
        if values:
            return _understood(values, metadata, entry, question)
    return None


def _understood(
    values: list[Any], metadata: Mapping[str, Any], entry: str | None, question: str
) -> Tests:
    if all(isinstance(value, str) for value in values):
        values = [values]
    if all(isinstance(v, list) and all(isinstance(x, str) for x in v) for v in values):
        pieces = [_setup(metadata), *(piece for value in values for piece in value)]
        prompt = metadata.get("prompt")
        prompt = prompt if isinstance(prompt, str) and prompt else question
        whole = prompt if entry and f"def {entry}" in prompt else None
        return Tests("asserts", function=entry, pieces=[p for p in pieces if p], prompt=whole)
    return _pairs(values, metadata)


def _setup(metadata: Mapping[str, Any]) -> str:
    parts = [part for name in _SETUP if (part := _parsed(metadata.get(name)))]
    texts = [part if isinstance(part, list) else [part] for part in parts]
    return "\n".join(str(line) for text in texts for line in text)


def _parsed(value: Any) -> Any:
    """Return a value, or what it says where it is JSON text of a list or object."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _pairs(values: list[Any], metadata: Mapping[str, Any]) -> Tests:
    function = _first(metadata, _FUNCTION)
    pairs: list[tuple[Any, Any]] = []
    for value in values:
        if isinstance(value, dict) and isinstance(inner := _parsed(value.get("test_cases")), list):
            value = inner
        if isinstance(value, dict):
            function = _first(value, _FUNCTION) or function
            inputs, outputs = _first(value, _INPUTS), _first(value, _OUTPUTS)
            if not (isinstance(inputs, list) and isinstance(outputs, list)):
                raise ValueError("tests with no lists of inputs and outputs")
            if len(inputs) != len(outputs):
                raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
            pairs += zip(inputs, outputs, strict=True)
        elif isinstance(value, list):
            for case in value:
                if not isinstance(case, dict):
                    raise ValueError("a test that is no pair of input and output")
                function = _first(case, _FUNCTION) or function
                pairs.append((_first(case, _INPUTS), _first(case, _OUTPUTS)))
        else:
            raise ValueError(f"tests of the kind {type(value).__name__}")
    if not pairs:
        raise ValueError("no tests in the list")
    if function is not None:
        if not isinstance(function, str):
            raise ValueError("a function's name that is no text")
        return Tests("calls", _unwrapped([_call(*pair) for pair in pairs]), function)
    return Tests("stdin", [(_text(given), _text(expected)) for given, expected in pairs])


def _first(mapping: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((mapping[name] for name in names if mapping.get(name) is not None), None)


def _text(value: Any) -> str:
    if isinstance(value, list):  # of lines
        return "\n".join(map(_text, value))
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, dict):
        raise ValueError("a test without input or output")
    return str(value)


def _call(given: Any, expected: Any) -> tuple[list[Any], Any]:
    """Return arguments and result; as text they are JSON, an argument a line (LiveCodeBench)."""
    if isinstance(given, str):
        try:
            given = [json.loads(line) for line in given.splitlines() if line.strip()]
            expected = json.loads(expected) if isinstance(expected, str) else expected
        except (ValueError, RecursionError) as error:
            raise ValueError("arguments that are no JSON") from error
    if not isinstance(given, list):
        raise ValueError("arguments that are no list")
    return given, expected


def _unwrapped(pairs: list[tuple[list[Any], Any]]) -> list[tuple[list[Any], Any]]:
    """Allow for APPS, which puts each result of a question into a list of one."""
    if all(isinstance(expected, list) and len(expected) == 1 for _, expected in pairs):
        return [(given, Either((expected, expected[0]))) for given, expected in pairs]
    return pairs


class Either(tuple[Any, Any]):
    """Two results of which one is expected: which, the data does not say."""
