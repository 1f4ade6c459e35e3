import pytest
from pydantic import ValidationError

from filters.contract import Context
from filters.length import Config


@pytest.fixture
def words():
    return Context(count_tokens=lambda text: len(text.split()))


def test_counts_the_trace_as_the_student_sees_it(make, record, words):
    decision = make("length", words, max=6)(record("c d", "a b"))
    assert decision == (True, "", 6)  # two words, two tags, two words


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"min": 6, "max": 6}, ""),
        ({"min": 7}, "too short"),
        ({"max": 5}, "too long"),
        ({"reasoning_max": 2, "answer_max": 2}, ""),
        ({"reasoning_max": 1}, "reasoning too long"),
        ({"answer_max": 1}, "answer too long"),
    ],
)
def test_bounds(make, record, words, options, kind):
    decision = make("length", words, **options)(record("c d", "a b"))
    assert decision.reason.split(":")[0] == kind
    assert decision.score == 6


def test_no_reasoning_has_no_reasoning_tokens(make, record, words):
    assert make("length", words, reasoning_max=1)(record("a b c")).keep


@pytest.mark.parametrize("options", [{}, {"min": 5, "max": 4}, {"max": 0}, {"maximum": 3}])
def test_senseless_bounds_are_refused(options):
    with pytest.raises(ValidationError):
        Config(**options)
