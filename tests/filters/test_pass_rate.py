import pytest
from pydantic import ValidationError

from filters import pass_rate as module
from filters.base import Context
from synth.core.errors import UserError
from synth.core.record import Record, Task, Verdict


def trace(task, right, verifier="math_answer"):
    return Record(
        f"{task}-{right}", Task(task, "q"), [], None, "", None, [Verdict(verifier, right)]
    )


def run(records, **options):
    check = module.build(module.Config(**options), Context())
    return list(check(lambda: iter(records))), check


RECORDS = [
    *(trace("easy", True) for _ in range(4)),
    *(trace("mid", right) for right in (True, False, None, False)),
    *(trace("hard", False) for _ in range(4)),
    trace("dark", None),
]


def test_questions_within_the_band_and_their_right_answers():
    decisions, check = run(RECORDS, pass_rate_min=0.1, pass_rate_max=0.9)
    kinds = [d.reason for d in decisions]
    assert kinds[:4] == ["too easy: pass_rate 1, over 0.9"] * 4
    assert kinds[4:8] == ["", *["not a right answer"] * 3]
    assert kinds[8:12] == ["too hard: pass_rate 0, under 0.1"] * 4
    assert decisions[12].keep is None
    assert decisions[4].evidence == {"right": 1, "of": 3}
    assert decisions[4].score == pytest.approx(1 / 3)
    assert check.notes == []


def test_wrong_answers_stay_on_request():
    decisions, _ = run(RECORDS, pass_rate_max=0.9, right_only=False)
    assert [d.keep for d in decisions[4:8]] == [True] * 4


def test_it_says_where_only_right_answers_reach_it():
    decisions, check = run(RECORDS[:4], pass_rate_min=0.5)
    assert all(d.keep for d in decisions)
    assert "has math_answer action: tag?" in check.notes[0]


def test_mistakes():
    with pytest.raises(UserError, match="called 'exact'; known: math_answer"):
        run(RECORDS, verifier="exact", pass_rate_min=0.5)
    with pytest.raises(ValidationError):
        module.Config()
    assert run([], pass_rate_min=0.5)[0] == []
