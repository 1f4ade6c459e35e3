import time

import pytest
from pydantic import ValidationError

from filters.regex import Config


@pytest.mark.parametrize(
    ("options", "keep", "reason"),
    [
        ({"must": r"\\boxed\{"}, True, ""),
        ({"must": [r"\\boxed", "therefore"]}, False, "does not match: therefore"),
        ({"must": "THEREFORE", "on": "reasoning", "ignore_case": True}, True, ""),
        ({"must": "therefore", "on": "both"}, True, ""),
        ({"must_not": "as an AI"}, True, ""),
        ({"must_not": ["xx", "boxed"]}, False, "matches: boxed"),
        ({"must_not": "wait", "on": "both"}, False, "matches: wait"),
        ({"must": "^$", "on": "reasoning"}, False, "does not match: ^$"),
    ],
)
def test_must_and_must_not(make, record, options, keep, reason):
    decision = make("regex", **options)(record(r"It is \boxed{5}.", "wait, therefore 5"))
    assert (decision.keep, decision.reason) == (keep, reason)


def test_the_evidence_is_the_place_of_what_was_found(make, record):
    decision = make("regex", must_not="sorry")(record("I am sorry."))
    assert decision.evidence == {"pattern": "sorry", "found": "sorry", "at": [5, 10]}


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(.*)*x$", "(a*)*b", "(?:a?){60}a{60}$"])
def test_a_pattern_that_blows_up_is_stopped_and_nobody_can_tell(make, record, pattern):
    start = time.perf_counter()
    for way in ("must", "must_not"):
        check = make("regex", timeout=0.2, **{way: pattern})
        decision = check(record("a" * 100_000 + "!"))
        assert decision.keep is not None or decision.reason.startswith("cannot tell: a pattern")
    assert time.perf_counter() - start < 4


def test_a_time_out_is_not_a_no(make, record):
    decision = make("regex", must="(a+)+$", timeout=0.2)(record("a" * 5_000 + "!"))
    assert decision.keep is None and decision.evidence == {"pattern": "(a+)+$"}


def test_any_text_is_searched(make, record):
    check = make("regex", must="x$")
    for text in ("\x00" * 10, "\ud800x", "\u202ex", "", "y" * 1_000_000):
        assert check(record(text)).keep is text.endswith("x")


@pytest.mark.parametrize(
    "options", [{}, {"must": "("}, {"must": []}, {"must": "a", "on": "all"}, {"must": "a{2,1}"}]
)
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises(ValidationError):
        Config(**options)
