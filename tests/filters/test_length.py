import pytest
from pydantic import ValidationError

from filters import length
from filters.base import Context
from filters.length import Config


@pytest.fixture
def words():
    return Context(count_tokens=lambda text: len(text.split()))


def test_counts_the_trace_as_the_student_sees_it(record, words):
    check = length.build(Config(tokens_max=1), words)
    figures = check(record("c d", "a b"))  # two words, two tags, two words
    assert figures.values == {"tokens": 6, "reasoning_tokens": 2, "answer_tokens": 2}


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"tokens_min": 6, "tokens_max": 6}, ""),
        ({"tokens_min": 7}, "too short"),
        ({"tokens_max": 5}, "too long"),
        ({"reasoning_tokens_max": 2, "answer_tokens_max": 2}, ""),
        ({"reasoning_tokens_max": 1}, "reasoning too long"),
        ({"reasoning_tokens_min": 3}, "reasoning too short"),
        ({"answer_tokens_max": 1}, "answer too long"),
        ({"answer_tokens_min": 3}, "answer too short"),
    ],
)
def test_bounds(make, record, words, options, kind):
    decision = make("length", words, **options)(record("c d", "a b"))
    assert decision.reason.split(":")[0] == kind
    assert decision.keep == (not kind)


def test_a_trace_without_reasoning_has_no_reasoning_tokens(record, words):
    values = length.build(Config(tokens_max=9), words)(record("a b c")).values
    assert values == {"tokens": 3, "reasoning_tokens": 0, "answer_tokens": 3}


@pytest.mark.parametrize(
    "options",
    [{}, {"action": "tag"}, {"tokens_min": 5, "tokens_max": 4}, {"tokens_max": 0}, {"max": 3}],
)
def test_senseless_bounds_are_refused(options):
    with pytest.raises(ValidationError):
        Config(**options)
