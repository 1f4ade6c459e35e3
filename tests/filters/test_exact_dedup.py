import pytest


def over(check, records):
    return list(check(lambda: iter(records)))


def kept(check, records):
    return [decision.keep for decision in over(check, records)]


def test_the_first_is_kept_and_named(make, record):
    records = [
        record("The  answer\nis 5", "Add.", id="a"),
        record("the answer is ５ ", "ADD.", id="b"),
        record("the answer is 5", "Add.", id="c", question="other"),
    ]
    first, second, third = over(make("exact_dedup"), records)
    assert first.keep and third.keep
    assert second.reason == "duplicate: of a (similarity 1.000)"
    assert (second.score, second.threshold) == (1.0, 1.0)
    assert second.evidence["partner"] == "a"


@pytest.mark.parametrize(
    ("on", "same_trace", "same_question"),
    [("question", True, False), ("trace", False, True), ("question_and_trace", True, True)],
)
def test_what_is_compared(make, record, on, same_trace, same_question):
    first = record("5", id="a", question="q")
    check = make("exact_dedup", on=on)
    other_question = record("5", id="b", question="other")
    assert kept(check, [first, other_question]) == [True, same_trace]
    assert kept(check, [first, record("6", id="c", question="q")]) == [True, same_question]


@pytest.mark.parametrize(
    ("one", "other"),
    [(("ab", "c"), ("a", "bc")), ((None, "a"), ("", "a")), ((None, "a"), ("a", ""))],
)
def test_parts_do_not_run_together(make, record, one, other):
    records = [record(one[1], one[0], id="a"), record(other[1], other[0], id="b")]
    assert kept(make("exact_dedup"), records) == [True, True]


def test_several_a_question(make, record):
    records = [record(f"{n}", id=f"{n}", question="q") for n in range(5)]
    assert kept(make("exact_dedup", on="question", keep=3), records) == [True] * 3 + [False] * 2


def test_lone_surrogates_and_nothing(make, record):
    texts = ["\ud800", "\ud800", "", "", "\0", "\0"]
    records = [record(text, id=f"{n}") for n, text in enumerate(texts)]
    assert kept(make("exact_dedup"), records) == [True, False] * 3
    assert kept(make("exact_dedup"), []) == []
