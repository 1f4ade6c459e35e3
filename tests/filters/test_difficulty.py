import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters import difficulty as module
from filters.base import Context, Decision, Figures, decide
from synth.core.errors import UserError
from synth.core.record import Record, Task


class Student:
    """Answers a question by a list of its answers, and counts what it was asked."""

    def __init__(self, answers):
        self.answers, self.asked, self.lock = answers, [], threading.Lock()

    def __call__(self, teacher, messages, sampling, sample):
        with self.lock:
            self.asked.append((teacher, messages[-1]["content"], sampling, sample))
        answer = self.answers[sample % len(self.answers)]
        if isinstance(answer, Exception):
            raise answer
        time.sleep(0.001)
        return answer


def record(metadata=None, answer="4", task="t", question="What is 2 + 2?"):
    return Record("r", Task(task, question, answer, "", metadata or {}), [], None, "")


def built(student=None, **options):
    context = replace(Context(), ask=student) if student else Context()
    return module.build(module.Config(**options), context)


RIGHT, WRONG = r"<think>easy</think>It is \boxed{4}.", r"\boxed{5}"


def test_the_rate_of_right_answers():
    student = Student([RIGHT, WRONG, WRONG, RIGHT, WRONG])
    check = built(student, teacher="small", samples=5, pass_rate_max=0.9)
    figures = check(record())
    assert figures == Figures({"pass_rate": 0.4}, {"right": 2, "of": 5, "asked": 5})
    teacher, prompt, sampling, _ = student.asked[0]
    assert teacher == "small" and prompt.startswith("What is 2 + 2?")
    assert sampling["temperature"] == 1.0
    assert [asked[3] for asked in student.asked] == [0, 1, 2, 3, 4]
    check.close()


@pytest.mark.parametrize(
    ("answers", "keep", "kind"),
    [([RIGHT], False, "too easy"), ([WRONG], False, "too hard"), ([RIGHT, WRONG], True, "")],
)
def test_the_band(answers, keep, kind):
    config = module.Config(teacher="s", samples=2, pass_rate_min=0.1, pass_rate_max=0.9)
    check = module.build(config, replace(Context(), ask=Student(answers)))
    decision = decide(check(record()), config)
    assert decision.keep == keep and decision.reason.split(":")[0] == kind
    check.close()


def test_a_question_is_asked_once_however_many_threads_come():
    student = Student([RIGHT, WRONG])
    check = built(student, teacher="s", samples=2, pass_rate_max=0.9)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: check(record(task=f"t{i % 2}")), range(40)))
    assert all(figures.values["pass_rate"] == 0.5 for figures in found)
    assert len(student.asked) == 4
    check.close()


def test_a_failed_request_is_no_wrong_answer():
    student = Student([RuntimeError("status\n500"), RIGHT])
    check = built(student, teacher="s", samples=2, pass_rate_min=0.9)
    assert check(record()).values == {"pass_rate": 1.0}
    check = built(Student([RuntimeError("status\n500")]), teacher="s", pass_rate_min=0.9)
    found = check(record())
    assert found == Decision(None, "cannot tell: the teacher does not answer: status 500")


def test_what_cannot_be_checked_is_not_asked():
    student = Student([RIGHT])
    check = built(student, teacher="s", pass_rate_min=0.1)
    assert check(record(answer=None)).reason.startswith("cannot tell: the verifier cannot check")
    assert student.asked == []
    check.close()


def test_a_teacher_that_is_not_there_ends_it_for_every_thread():
    check = built(None, teacher="s", pass_rate_min=0.1)
    for _ in range(2):
        with pytest.raises(UserError, match="no teacher 's'"):
            check(record())
    check.close()


def test_a_stated_rate_asks_nobody():
    student = Student([RIGHT])
    check = built(student, teacher="s", pass_rate="solved", samples=1, pass_rate_max=0.9)
    assert check(record({"solved": "3/32"})).values == {"pass_rate": 3 / 32}
    assert student.asked == []
    assert check(record({"solved": "often"})).values == {"pass_rate": 1.0}
    assert len(student.asked) == 1
    check.close()
    check = built(pass_rate="solved", pass_rate_max=0.9)
    assert check(record()).keep is None


def test_levels():
    check = built(level="level", level_min=3)
    assert check(record({"level": "Level 5"})).values == {"level": 5}
    assert check(record({"level": "Level ?"})) == Decision(
        None, "cannot tell: no level in metadata.level"
    )
    both = built(level="level", level_min=3, pass_rate="rate", pass_rate_min=0.1)
    assert both(record({"level": 2, "rate": 0.5})).values == {"level": 2, "pass_rate": 0.5}


@given(st.none() | st.booleans() | st.floats() | st.text() | st.lists(st.integers()))
def test_any_metadata(value):
    rate, level = module._rate(value), module._level(value)
    assert rate is None or 0 <= rate <= 1
    assert level is None or isinstance(level, float)


@pytest.mark.parametrize(
    ("value", "rate"),
    [("25%", 0.25), ("8 / 32", 0.25), (0.25, 0.25), (1, 1.0), ("3/0", None), (2, None), ("", None)],
)
def test_rates(value, rate):
    assert module._rate(value) == rate


@pytest.mark.parametrize(
    "wrong",
    [
        {"teacher": "s"},
        {"pass_rate_max": 0.9},
        {"level_min": 3, "teacher": "s"},
        {"teacher": "s", "pass_rate_max": 0.9, "template": "boxd.en"},
        {"teacher": "s", "pass_rate_max": 0.9, "template": "boxed_examples.en"},
        {"teacher": "s", "pass_rate_max": 9},
    ],
)
def test_mistakes(wrong):
    with pytest.raises(ValidationError):
        module.Config(**wrong)


def test_an_unknown_verifier_is_the_users_error():
    with pytest.raises(UserError, match="math_anser"):
        built(Student([RIGHT]), teacher="s", pass_rate_max=0.9, verifier="math_anser")
    config = module.Config(teacher="s", pass_rate_max=0.9, verifier={"exact": {"level": "case"}})
    assert config.sub_filters() == [("exact", {"level": "case"})]
