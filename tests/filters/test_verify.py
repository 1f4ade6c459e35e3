import json

import pytest
from pydantic import ValidationError

from filters import verify
from filters.base import Context
from filters.verify import Config


class Judge:
    """Stands for the teacher: says the same of each trace, and counts how often it is asked."""

    def __init__(self, score):
        self.score, self.asked = score, 0

    def __call__(self, teacher, messages, sampling, sample):
        self.asked += 1
        if self.score is None:
            raise RuntimeError("status 503")
        return json.dumps({"reason": "as it seems", "score": self.score})


JUDGE = {"judge": {"teacher": "big", "score_min": 7}}


def ask(make, trace, score, by=("math_answer", JUDGE), **options):
    judge = Judge(score)
    check = make("verify", Context(ask=judge), by=list(by), **options)
    return check(trace), judge.asked


def test_who_can_tell_first_decides(make, record):
    decision, asked = ask(make, record(r"\boxed{1/2}", reference="0.5"), 1)
    assert (decision.keep, decision.score, asked) == (True, 1.0, 0)
    assert decision.evidence["by"] == "math_answer"
    assert decision.evidence["evidence"]["by"] == "numbers"
    decision, asked = ask(make, record(r"\boxed{2}", reference="0.5"), 9)
    assert (decision.keep, asked) == (False, 0)
    assert decision.reason.startswith("wrong answer: got 2")


@pytest.mark.parametrize(("score", "keep"), [(9, True), (2, False)])
def test_the_next_one_is_asked_where_one_cannot_tell(make, record, score, keep):
    decision, asked = ask(make, record(r"\boxed{x^2+}", reference="5"), score)
    assert (decision.keep, decision.score, decision.threshold, asked) == (keep, score, 7, 1)
    assert decision.evidence["by"] == "judge"
    said = {"filter": "math_answer", "said": "cannot tell: answer not understood"}
    assert decision.evidence["others"] == [said]


def test_where_none_can_tell_all_their_reasons_are_said(make, record):
    decision, _ = ask(make, record("x", reference=None), None)
    assert decision.keep is None
    assert decision.reason == (
        "cannot tell: math_answer: no reference answer; "
        "judge: the judge does not answer: status 503"
    )


def test_a_no_can_be_appealed(make, record):
    trace = record(r"\boxed{one half}", reference="5")
    decision, asked = ask(make, trace, 9, also_wrong=True)
    assert (decision.keep, asked) == (True, 1)
    assert decision.evidence["others"][0]["filter"] == "math_answer"
    decision, asked = ask(make, trace, 2, also_wrong=True)
    assert decision.keep is False and decision.evidence["by"] == "math_answer"
    assert decision.evidence["others"] == [
        {"filter": "judge", "said": decision.evidence["others"][0]["said"]}
    ]
    decision, _ = ask(make, trace, None, also_wrong=True)
    assert decision.keep is False and decision.evidence["by"] == "math_answer"


def test_rules_can_follow_rules(make, record):
    trace = record("Paris", reference="paris")
    trace.task.metadata = {"choices": ["Rome", "Oslo"]}
    decision, _ = ask(make, trace, 1, by=["choice", {"exact": {"level": "case"}}])
    assert decision.keep is True and decision.evidence["by"] == "exact"


def test_what_it_is_made_of_is_told_to_the_chain():
    config = Config(by=["math_answer", JUDGE])
    assert config.sub_filters() == [("math_answer", {}), ("judge", JUDGE["judge"])]
    assert verify.check(config) == []


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ([], "at least 1 item"),
        (["math_anser"], "did you mean 'math_answer'"),
        ([{"math_answer": {"tiemout": 3}}], "tiemout: Extra inputs"),
        (["vote"], "vote does not judge a trace by itself"),
        ([{"math_answer": {}, "exact": {}}], "a filter is written NAME"),
        ([{"exact": {"action": "tag"}}], "options of verify as a whole"),
        ([{"judge": {}}], "teacher: Field required"),
    ],
)
def test_the_users_mistakes(by, message):
    with pytest.raises(ValidationError, match=message):
        Config(by=by)
