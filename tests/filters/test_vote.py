import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters.base import Context
from filters.vote import Config, build, memory
from synth.core.record import Generation, Record, Task


def trace(final, task="t", teacher="a", reference=None):
    generation = Generation(teacher, "m", "p", "", {}, 0, "stop", None, None, None, 0.0, "")
    answer = f"It is \\boxed{{{final}}}." if final is not None else "I do not know."
    return Record("r", Task(task, "q", reference), [], None, answer, generation)


def voted(records, **options):
    return list(build(Config(**options), Context())(lambda: iter(records)))


def test_those_that_say_what_most_say_are_kept():
    decisions = voted([trace("0.5"), trace("1/2"), trace("3"), trace(None)])
    assert [d.keep for d in decisions] == [True, True, False, False]
    assert decisions[0].score == 0.5
    assert decisions[0].evidence == {"tally": {"0.5": 2, "3": 1}, "answers": 4}
    assert decisions[2].reason == "outvoted: got 3, most say 0.5"
    assert decisions[3].reason == "no answer found"


def test_each_question_has_its_own_vote_in_any_order():
    decisions = voted(
        [trace("1", "t"), trace("2", "u"), trace("1", "t"), trace("2", "u"), trace("3", "u")]
    )
    assert [d.keep for d in decisions] == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("finals", "options", "why"),
    [
        (["1", "2"], {}, "a tie"),
        (["1", "1", "2", "2"], {}, "a tie"),
        (["1"], {}, "too few votes for one answer (1 of 2)"),
        (["1", "1", "2"], {"min_votes": 3}, "too few votes for one answer (2 of 3)"),
        (["1", "1", "2", "3", "4"], {}, "no majority (2 of 5)"),
        (["1", "1", "2", None, None], {"min_share": 0.6}, "no majority (2 of 5)"),
    ],
)
def test_without_a_majority_nobody_can_tell(finals, options, why):
    decisions = [
        d for d, f in zip(voted([trace(f) for f in finals], **options), finals, strict=True) if f
    ]
    assert {d.keep for d in decisions} == {None}
    assert {d.reason for d in decisions} == {f"cannot tell: {why}"}


def test_a_teachers_answers_may_weigh_more():
    records = [trace("1", teacher="big"), trace("2", teacher="small"), trace("2", teacher="small")]
    assert [d.keep for d in voted(records)] == [False, True, True]
    decisions = voted(records, weights={"big": 3.0})
    assert [d.keep for d in decisions] == [True, False, False]
    assert decisions[0].evidence["tally"] == {"1": 3.0, "2": 2.0}


def test_a_mute_teacher_has_no_vote_but_is_judged():
    records = [trace("1", teacher="new"), trace("2"), trace("2")]
    assert [d.keep for d in voted(records, weights={"new": 0.0})] == [False, True, True]


def test_questions_with_a_reference_may_be_left_out():
    records = [trace("1", reference="1"), trace("2", "u"), trace("2", "u")]
    assert [d.keep for d in voted(records)] == [None, True, True]
    assert [d.keep for d in voted(records, only_without_reference=True)] == [True, True, True]


def test_equality_as_text():
    records = [trace("0.5"), trace("1/2"), trace("1/2")]
    assert [d.keep for d in voted(records)] == [True] * 3
    assert [d.keep for d in voted(records, equal="text")] == [False, True, True]


def test_a_record_without_a_generation_has_one_vote():
    records = [trace("1"), trace("1")]
    records[0].generation = None
    assert [d.keep for d in voted(records)] == [True, True]


def test_memory_grows_with_the_records():
    assert memory(Config(), 2000) == 2 * memory(Config(), 1000) > 0


@pytest.mark.parametrize("options", [{"min_votes": 0}, {"min_share": 1.5}, {"equal": "maths"}])
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises(ValidationError):
        Config(**options)


@given(
    st.lists(
        st.tuples(st.sampled_from(["1", "2", "x", "\ud800", None]), st.sampled_from("tu")),
        max_size=12,
    )
)
def test_the_kept_of_a_question_agree_and_are_most(rows):
    records = [trace(final, task) for final, task in rows]
    decisions = voted(records, equal="text", min_share=0, min_votes=1)
    assert len(decisions) == len(records)
    for task in "tu":
        mine = [(r[0], d.keep) for r, d in zip(rows, decisions, strict=True) if r[1] == task]
        kept = {final for final, keep in mine if keep}
        assert len(kept) <= 1, mine
        if kept:
            others = {f for f, _ in mine} - kept - {None}
            count = [f for f, _ in mine].count
            assert all(count(other) < count(*kept) for other in others)
