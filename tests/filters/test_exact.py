import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.exact import LEVELS, normalise


@pytest.mark.parametrize(
    ("answer", "reference", "first"),
    [
        ("Paris", "Paris", "none"),
        (" Paris\n", "Paris", "space"),
        ("New   York", "New York", "space"),
        ("Ｐaris", "Paris", "space"),
        ("Par\u200bis\x00", "Paris", "space"),
        ("PARIS", "Paris", "case"),
        ("STRASSE", "straße", "case"),
        ("Paris.", "Paris", "punctuation"),
        ('"Paris"!', "paris", "punctuation"),
        ("well-known", "well known", "punctuation"),
        ("1,000.0", "1000", "number"),
        ("+7", "7.00", "number"),
        ("It has 1,200 parts", "it has 1200.0 parts.", "number"),
        (r"So \boxed{Paris}.", "Paris", "none"),
    ],
)
def test_the_first_level_at_which_texts_are_equal(make, record, answer, reference, first):
    kept = [
        make("exact", level=level)(record(answer, reference=reference)).keep for level in LEVELS
    ]
    place = LEVELS.index(first)
    assert kept == [False] * place + [True] * (len(LEVELS) - place)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-3", "3"),
        ("1.5", "15"),
        ("3-2", "32"),
        ("a.b", "ab"),
        ("1,5", "15"),
        ("x", ""),
        ("-.5", "5"),
    ],
)
def test_what_is_not_equal_at_any_level(one, other):
    assert normalise(one, "number") != normalise(other, "number")


def test_any_of_several_references_will_do(make, record):
    trace = record("Big Apple", reference="New York")
    trace.task.metadata = {"aliases": ["NYC", "big apple"], "one": "Big apple", "none": None}
    decision = make("exact", references="aliases")(trace)
    assert decision.keep and decision.evidence["reference"] == "big apple"
    assert make("exact", references="one")(trace).keep
    assert make("exact", references="none")(trace).keep is False
    assert make("exact")(trace).reason == "wrong answer: got Big Apple, expected New York"


def test_what_of_the_answer_counts(make, record):
    trace = record("I think\nParis", reference="Paris")
    assert not make("exact")(trace).keep
    assert make("exact", read="last_line")(trace).keep
    assert make("exact", read="box")(trace).reason == "no answer found"
    boxed = record(r"It is \boxed{Paris}", reference="Paris")
    assert make("exact")(boxed).keep and not make("exact", read="all")(boxed).keep


def test_without_a_reference_nobody_can_tell(make, record):
    for reference in (None, "", "  "):
        assert make("exact")(record("x", reference=reference)).keep is None
    assert make("exact")(record("", reference="x")).reason == "no answer found"


@given(st.text(max_size=200), st.sampled_from(LEVELS))
def test_normalising_twice_is_normalising_once(text, level):
    once = normalise(text, level)
    if level in ("none", "space"):
        assert normalise(once, level) == once
    assert isinstance(once, str)


@pytest.mark.parametrize(
    "text", ["1," * 500_000, "9" * 1_000_000, "-+." * 300_000, "\ud800" * 99, "," * 999_999]
)
def test_hostile_texts_take_no_time(make, record, text):
    start = time.process_time()
    assert make("exact", level="number")(record(text, reference=text)).keep in (True, False)
    assert time.process_time() - start < 4
