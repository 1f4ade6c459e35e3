"""Every filter on records that are as bad as can be: a verdict in time, and never a failure."""

import sys
import time

import pytest

from filters.base import Context
from filters.engine.filter import FilterSpec, load_filters
from filters.engine.outcome_store import pack, unpack
from synth.core import plugins
from synth.core.record import Message, Record, Task, Verdict

# Options without which a filter has nothing to do.
OPTIONS = {
    "length": {"tokens_max": 100},
    "regex": {"must": "(a+)+$"},
    "json_schema": {
        "schema": {"anyOf": [{"type": "array", "items": {"$ref": "#"}}, {"type": "null"}]}
    },
    "pass_rate": {"pass_rate_min": 0.1},
    "decontaminate": {"sets": []},
    "quota": {"total": 5},
    "length_sample": {"total": 5},
    "diversity": {"total": 5},
    "verify": {"by": ["math_answer", "exact"]},
}
# These need a model or a teacher, and have tests of their own.
MODELS = {"judge", "toxicity", "reward_model", "perplexity", "difficulty", "semantic_dedup"}
LIMIT_S = 20.0

BIG = 1_000_000


def texts():
    yield "empty", None, ""
    yield "blank", " \n\t ", "\u200b\u00a0"
    yield "NUL", "a\x00b" * 100, "\x00"
    yield "surrogates", "\ud800\udfff" * 50, "x\udc80"
    yield "right to left", "\u202eabc\u202c\u200f" * 200, "\u2067\\boxed{1}\u2069"
    yield "one long line", "x" * BIG, "y" * BIG
    yield "long words", ("lorem ipsum " * 50 + "\n") * 1000, "\\boxed{2}"
    yield "boxes", "\\boxed{" * 10_000, "\\boxed{1} " * 10_000
    yield "nested boxes", "\\boxed{" * 2_000 + "1" + "}" * 2_000, "\\boxed{" * 500 + "}" * 500
    yield "tags", "<think>" * 1000 + "</think>" * 1000, "<think>\\boxed{1}</think></think><think>"
    yield "fences", "```python\n" * 5_000, "```" * 5_001
    yield "dollars", "$" * 100_001, "\\[" * 10_000
    yield "braces", "{" * 100_000, "}" * 100_000
    yield "LaTeX bomb", None, "\\boxed{10^{10^{10}}}"
    yield "factorial", None, "\\boxed{(10^9)!}"
    yield "nested fractions", None, "\\boxed{" + "\\frac{1}{" * 300 + "2" + "}" * 300 + "}"
    yield "JSON bomb", None, "[" * 100_000 + "]" * 100_000
    yield "digits", "9" * 100_000, "\\boxed{" + "9" * 5_000 + "}"
    yield "e-mail bomb", "a@" * 50_000, "a." * 50_000 + "@" + "b." * 50_000
    yield "quantifiers", "a" * 100_000 + "!", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"
    yield "combining marks", "e" + "\u0301" * 100_000, "\u0301"
    yield "all of Unicode", "".join(map(chr, range(0, 0x11000, 7))), "\U0010ffff" * 100


def record(name, reasoning, answer, number=0):
    tests = {
        "tests": ["assert f(1) == 2", "\x00", "import os; os._exit(0)"],
        "choices": ["\x00", ""],
    }
    metadata = tests if number % 2 else {"tests": 7, "choices": {"A": None}, "pass_rate": "x"}
    task = Task(
        f"t{number % 3}", "\x00\ud800 what is 1? " * (number % 2), "\\frac{1", name, metadata
    )
    said = [Verdict("math_answer", (True, False, None)[number % 3], "x" * 9)]
    messages = [Message(role="user", content="q")]
    return Record(name, task, messages, reasoning, answer, verdicts=said)


RECORDS = [
    record(name, reasoning, answer, n) for n, (name, reasoning, answer) in enumerate(texts())
]
NAMES = [name for name in plugins.names("filter") if name not in MODELS]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_hostile_records_get_a_verdict_in_time(name):
    (one,) = load_filters([FilterSpec(name, OPTIONS.get(name, {}))])
    check = one.module.build(one.config, Context(count_tokens=len, workers=2))
    try:
        if one.level == "set":
            start = time.monotonic()
            outcomes = list(check(lambda: iter(RECORDS)))
            assert time.monotonic() - start < 2 * LIMIT_S
            assert len(outcomes) == len(RECORDS)
        else:
            outcomes = []
            for bad in RECORDS:
                start = time.monotonic()
                outcomes.append(one.judge(check, bad))
                spent = time.monotonic() - start
                assert spent < LIMIT_S, f"{bad.id} took {spent:.1f} s"
    finally:
        getattr(check, "close", lambda: None)()
    for bad, outcome in zip(RECORDS, outcomes, strict=True):
        verdict = one.verdict(unpack(pack([outcome]))[0])
        assert verdict.kind != "filter failed", f"{bad.id}: {verdict.reason}"
        assert verdict.keep in (True, False, None) and len(verdict.reason) < 500


def test_recursion_is_as_deep_as_it_was():
    assert sys.getrecursionlimit() <= 1000
