"""The vote: equal answers count together, ties are none, and the order does not matter."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.answers.boxed import bare_reference, final_answer
from filters.answers.voting import Vote, agree


def boxed(*finals):
    return [f"So it is \\boxed{{{final}}}." for final in finals]


def text_only(one, other):
    return one == other


def test_the_commonest_answer_wins_and_answers_without_a_box_count_in_the_total():
    assert agree([*boxed("7", "8", "7"), "I do not know"]) == Vote("7", 2, 4)


@pytest.mark.parametrize(
    "answers", [[], ["none"], boxed("1", "2"), boxed("1", "2", "1", "2"), ["", "\\boxed{}"]]
)
def test_a_tie_or_nothing_to_count_is_no_agreement(answers):
    assert agree(answers) is None


def test_a_lone_answer_agrees_with_itself():
    assert agree(boxed("5")) == Vote("5", 1, 1)


def test_mathematically_equal_answers_count_together_in_their_commonest_form():
    halves = boxed("1/2", "0.5", r"\frac12", r"\frac{1}{2}", r"\dfrac{1}{2}", "0.5")
    assert agree([*boxed("2", "2", "2"), *halves]) == Vote("0.5", 6, 9)


def test_thousands_and_dollars_are_decided_by_text_without_a_worker():
    assert agree(boxed("1,234", "1234", r"\$1,234", "9")) == Vote("1234", 3, 4)


def test_the_last_box_counts_and_joined_boxes_are_one_answer():
    assert final_answer(r"First \boxed{1}, no: \boxed{2}.") == "2"
    assert agree([r"\boxed{2} and \boxed{3}", r"\boxed{2, 3}", r"\boxed{2}"]) == Vote("2, 3", 2, 3)


def test_half_a_percent_does_not_make_fifty_equal_to_a_half():
    # 50% equals both as math-verify has it; 50 and 0.5 are not equal for that.
    assert agree(boxed("50", "50", "0.5", "0.5", "0.5")) == Vote("0.5", 3, 5)
    assert agree(boxed("50", "50", "50%", "0.5", "0.5")) == Vote("50", 3, 5)


def test_comparisons_stop_at_their_limit_and_the_votes_by_text_stand(monkeypatch):
    monkeypatch.setattr("filters.answers.voting.LIMIT_S", 0.0)

    def never(one, other):
        raise AssertionError("compared after the limit")

    assert agree(boxed("0.5", "1/2", "1/2"), never) == Vote("1/2", 2, 3)


@given(st.lists(st.sampled_from(["1", "2", "3", "x", ""]), max_size=12), st.randoms())
def test_order_does_not_matter_and_the_winner_has_the_most_votes(finals, chance):
    answers = boxed(*finals)
    vote = agree(answers, text_only)
    chance.shuffle(answers)
    assert agree(answers, text_only) == vote
    ranked = Counter(filter(None, finals)).most_common()
    if vote is None:
        assert len(ranked) != 1
        assert len(ranked) < 2 or ranked[0][1] == ranked[1][1]
    else:
        assert (vote.answer, vote.votes) == ranked[0]
        assert vote.total == len(finals)


@given(st.lists(st.sampled_from(["1", "1.0", "01", "2", "2.0", "y"]), min_size=1, max_size=10))
def test_order_does_not_matter_where_forms_differ(finals):
    def same(one, other):
        return one == other or {one, other} <= {"1", "1.0", "01"} or {one, other} <= {"2", "2.0"}

    shuffled = boxed(*finals)
    random.Random(len(finals)).shuffle(shuffled)
    assert agree(boxed(*finals), same) == agree(shuffled, same)


@given(st.lists(st.text(max_size=30), max_size=6))
def test_any_text_can_be_voted_on(answers):
    vote = agree(answers, text_only)
    assert vote is None or 1 <= vote.votes <= vote.total == len(answers)


def test_a_reference_is_freed_of_its_solution_and_box():
    assert bare_reference("2 + 2 = 4\n#### 4") == "4"
    assert bare_reference(r"$\boxed{\frac{1}{2}}$") == r"\frac{1}{2}"
    assert bare_reference("twelve") == "twelve"
