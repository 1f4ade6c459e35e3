import pytest


def test_the_first_is_kept_and_named(make, record):
    check = make("exact_dedup")
    assert check(record("The  answer\nis 5", "Add.", id="a")).keep
    assert check(record("the answer is ５ ", "ADD.", id="b")).reason == "duplicate: of a"
    assert check(record("the answer is 5", "Add.", id="c", question="other")).keep


def test_a_record_is_no_duplicate_of_itself(make, record):
    check = make("exact_dedup")
    assert check(record("5", id="a")).keep
    assert check(record("5", id="a")).keep


@pytest.mark.parametrize(
    ("on", "same_trace", "same_question"),
    [("question", True, False), ("trace", False, True), ("question_and_trace", True, True)],
)
def test_what_is_compared(make, record, on, same_trace, same_question):
    check = make("exact_dedup", on=on)
    check(record("5", id="a", question="q"))
    assert check(record("5", id="b", question="other")).keep == same_trace
    assert check(record("6", id="c", question="q")).keep == same_question


@pytest.mark.parametrize(
    ("one", "other"),
    [(("ab", "c"), ("a", "bc")), ((None, "a"), ("", "a")), ((None, "a"), ("a", ""))],
)
def test_parts_do_not_run_together(make, record, one, other):
    check = make("exact_dedup")
    assert check(record(one[1], one[0], id="a")).keep
    assert check(record(other[1], other[0], id="b")).keep


def test_lone_surrogates(make, record):
    check = make("exact_dedup")
    assert check(record("\ud800", id="a")).keep
    assert not check(record("\ud800", id="b")).keep
