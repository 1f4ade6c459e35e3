"""The figures of an evaluation, from the answers that were given."""

import json
import time

import pytest

from filters.engine.funnel import difficulty_of
from sft.evaluation.scores import Scores, difference, gap
from synth.config.run import Run
from synth.core.dataset import writing
from synth.core.errors import UserError
from synth.core.files import write_json
from synth.core.prompts import load_prompt
from synth.core.record import Generation, Record, Task, Verdict
from synth.stages.compare import compare_runs
from synth.stages.evaluate import reader, subset_sizes

HOSTILE = [
    "",
    "\x00",
    "\ud800",
    "\u202e\\boxed{1}",
    "\\boxed{" * 1000,
    "\\boxed{}",
    "<think>" * 500,
]


def task(number, **metadata):
    return Task(
        f"q{number}", f"What is {number}?", str(number), metadata.pop("source", "s"), metadata
    )


def answer(task, text, right, sample=0, reasoning="so", finish="stop"):
    made = Generation("t", "m", "p", "h", {}, sample, finish, 1, 10, None, 0.1, "key")
    verdicts = [Verdict("math_answer", right, "" if right else "wrong answer")]
    return Record(f"{task.id}-{sample}", task, [], reasoning, text, made, verdicts)


def sorts_of(tasks):
    return {
        "difficulty": [difficulty_of(Record("", one, [], None, "")) for one in tasks],
        "source": [one.source for one in tasks],
    }


def figures_of(tasks, answers, sizes=(1,), prompt="boxed.en"):
    counted = Scores(tasks, reader(load_prompt(prompt), {}))
    for records in answers:
        counted.take(records)
    return counted.figures(sorts_of(tasks), sizes)


def several(one, texts, right):
    return [answer(one, text, text in right, place) for place, text in enumerate(texts)]


def test_pass_and_majority_over_several_answers():
    tasks = [task(1), task(2)]
    half, same = "\\boxed{0.5}", "\\boxed{\\frac{1}{2}}"
    # Two of four are right, in two ways of writing; the others differ.
    first = several(tasks[0], [half, same, "\\boxed{7}", "none"], {half, same})
    second = several(tasks[1], ["\\boxed{9}"] * 4, set())
    figures = figures_of(tasks, [first, second], [1, 2, 3, 4])
    assert figures["accuracy"] == 0.25
    passes = {row["k"]: row["share"] for row in figures["pass_at_k"]}
    assert passes == pytest.approx({1: 0.25, 2: (1 - 1 / 6) / 2, 3: 0.5, 4: 0.5})
    majorities = {row["k"]: row["share"] for row in figures["majority_at_k"]}
    # Of the four triples two hold both right ones; in the others three, or one with one silent, tie.
    assert majorities == pytest.approx({3: (1 + 1 + 0.5 + 0.5) / 4 / 2, 4: 0.5})
    assert all(row["low"] <= row["share"] <= row["high"] for row in figures["pass_at_k"])


def test_one_answer_a_question_keeps_the_interval_of_wilson():
    from sft.evaluation.statistics import wilson

    tasks = [task(n) for n in range(10)]
    answers = [[answer(one, "\\boxed{1}", n < 3)] for n, one in enumerate(tasks)]
    figures = figures_of(tasks, answers, [1])
    assert (figures["low"], figures["high"]) == wilson(3, 10)
    assert figures["pass_at_k"] == [
        {"k": 1, "share": 0.3, "low": figures["low"], "high": figures["high"]}
    ]
    assert figures["majority_at_k"] == []


def test_questions_without_an_answer_count_as_wrong():
    tasks = [task(1), task(2)]
    figures = figures_of(tasks, [[answer(tasks[0], "\\boxed{1}", True)], []], [1, 4])
    assert [row["share"] for row in figures["pass_at_k"]] == [0.5, 0.5]
    assert [row["share"] for row in figures["majority_at_k"]] == [0.5]
    assert figures["truncation"]["share"] == 0
    empty = figures_of(tasks, [[], []], [1, 4])
    assert (empty["accuracy"], empty["format"], empty["truncation"]) == (0, None, None)


def test_answers_without_boxes_have_no_majority():
    tasks = [task(1)]
    figures = figures_of(tasks, [several(tasks[0], ["yes", "yes", "no"], {"yes"})], [1, 3])
    assert figures["majority_at_k"] == []
    assert [row["share"] for row in figures["pass_at_k"]] == pytest.approx([2 / 3, 1])


def test_comparing_has_an_end_and_says_what_was_left(monkeypatch):
    monkeypatch.setattr("sft.evaluation.scores.COMPARING_S", -1.0)
    tasks = [task(1)]
    texts = ["\\boxed{0.5}", "\\boxed{\\frac{1}{2}}", "\\boxed{7}", "\\boxed{7}", "\\boxed{7}"]
    figures = figures_of(tasks, [several(tasks[0], texts, set(texts[:2]))], [5])
    assert figures["majority_at_k"][0]["as_text"] == 1
    assert figures["majority_at_k"][0]["share"] == 0


def test_ten_thousand_boxes_take_no_time():
    one = task(1)
    texts = ["\\boxed{1}" * 10_000 + f"\\boxed{{{n}}}" * 9 for n in range(16)]
    started = time.monotonic()
    figures_of([one], [several(one, texts, {texts[0]})], [1, 4, 16])
    assert time.monotonic() - started < 20


def test_accuracy_by_difficulty_and_source():
    tasks = [task(n, level=n % 3 + 9, source="ab"[n % 2]) for n in range(12)]
    answers = [[answer(one, "\\boxed{1}", n % 3 == 0)] for n, one in enumerate(tasks)]
    by = figures_of(tasks, answers)["by"]
    assert [(row["group"], row["questions"], row["share"]) for row in by["difficulty"]] == [
        ("9", 4, 1.0), ("10", 4, 0.0), ("11", 4, 0.0),
    ]  # fmt: skip
    assert [row["group"] for row in by["source"]] == ["a", "b"]
    assert all(row["low"] <= row["share"] <= row["high"] for row in by["difficulty"])


@pytest.mark.parametrize("groups", [1, 13])
def test_one_group_or_many_are_not_shown(groups):
    tasks = [task(n, grade=n % groups) for n in range(26)]
    by = figures_of(tasks, [[] for _ in tasks])["by"]
    assert by == {"difficulty": [], "source": []}


@pytest.mark.parametrize(
    ("prompt", "text", "reasoning", "share"),
    [
        ("boxed.en", "\\boxed{1}", "so", 1),
        ("boxed.en", "\\boxed{1}", None, 0),
        ("boxed.en", "It is 1.", "so", 0),
        ("boxed.en", "<think>\\boxed{1}", "so", 0),
        ("boxed.zh", "\\boxed{1}", "so", 1),
        ("plain", "It is 1.", None, 1),
        ("plain", " ", None, 0),
    ],
)
def test_the_form_is_what_the_prompt_asks_for(prompt, text, reasoning, share):
    one = task(1)
    figures = figures_of([one], [[answer(one, text, True, reasoning=reasoning)]], prompt=prompt)
    assert figures["format"]["share"] == share


def test_truncated_answers_are_a_share_with_an_interval():
    tasks = [task(n) for n in range(4)]
    answers = [
        [answer(one, "x", False, finish="length" if n == 0 else "stop")]
        for n, one in enumerate(tasks)
    ]
    figures = figures_of(tasks, answers)
    assert figures["truncated"] == 1
    assert figures["truncation"]["share"] == 0.25
    assert figures["truncation"]["low"] < 0.25 < figures["truncation"]["high"]


def test_hostile_answers_and_groups_give_figures():
    tasks = [task(n, level=text) for n, text in enumerate([*HOSTILE, "nan", "inf", "x" * 10**6])]
    answers = [several(one, HOSTILE, set()) for one in tasks]
    figures = figures_of(tasks, answers, [1, 4])
    assert figures["accuracy"] == 0
    json.dumps(figures, allow_nan=False)


def test_difference_and_gap_are_made_of_the_same_questions():
    results = {
        "before": {"per_question": [0.0] * 30},
        "after": {"per_question": [1.0] * 15 + [0.0] * 15},
        "teacher": {"per_question": [1.0] * 30},
    }
    moved, closed = difference(results), gap(results)
    assert moved["difference"] == 0.5
    assert moved["p"] == pytest.approx(2 / 2**15)
    assert closed["share"] == pytest.approx(0.5)
    json.dumps([moved, closed], allow_nan=False)
    del results["teacher"]
    assert gap(results) is None
    del results["after"]
    assert difference(results) is None


@pytest.mark.parametrize(
    ("samples", "sizes"),
    [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (64, [1, 2, 4, 8, 16, 32, 64])],
)
def test_subset_sizes_grow_by_powers_of_two(samples, sizes):
    run = Run.model_validate(
        {
            "name": "r",
            "tasks": {"train": [{"source": "inline", "tasks": []}], "holdout": 2},
            "student": {"model": "small", "prompt": {"template": "boxed.en"}},
            "evaluate": {"samples": samples, "teacher": False},
        }
    )
    assert subset_sizes(run.evaluate) == sizes


def put_evaluate(folder, right, who="after", **more):
    """A run that was evaluated: a question's number, and whether it was answered rightly."""
    tasks = [task(number, level=number % 2, source="ab"[number % 2]) for number in right]
    with writing(folder / "evaluate", (who,)) as (_, manifest):
        manifest |= {
            "inputs": {},
            "asked": {"ids": [one.id for one in tasks], **sorts_of(tasks)},
            "results": {who: {"per_question": [float(good) for good in right.values()]}},
            "verifier": "math_answer",
        } | more
    return folder


def test_two_runs_are_compared_question_by_question(tmp_path):
    one = put_evaluate(tmp_path / "one", {n: n == 3 for n in range(12)})
    # The same questions in another order; all the even ones are right now, and 3 no more.
    other = put_evaluate(tmp_path / "other", {n: n % 2 == 0 for n in reversed(range(12))})
    found = compare_runs(one, other)
    assert (found["questions"], found["one"], found["other"]) == (12, 1 / 12, 0.5)
    assert found["difference"] == pytest.approx(5 / 12)
    assert found["p"] == pytest.approx(2 * 8 / 2**7)  # 6 turned right, 1 wrong
    assert found["low"] < found["difference"] < found["high"]
    even, odd = found["by"]["source"]
    assert (even["group"], even["questions"], even["difference"]) == ("a", 6, 1.0)
    assert (odd["group"], odd["one"], odd["other"]) == ("b", 1 / 6, 0)
    assert even["p"] == pytest.approx(2 / 2**6)
    assert [row["group"] for row in found["by"]["difficulty"]] == ["0", "1"]
    assert found["notes"] == []
    json.dumps(found, allow_nan=False)


@pytest.mark.slow
def test_the_command_compares_and_says_what_it_cannot(tmp_path, distill):
    put_evaluate(tmp_path / "one", {n: False for n in range(12)})
    put_evaluate(tmp_path / "other", {n: n > 3 for n in range(12)}, verifier="exact")
    put_evaluate(tmp_path / "third", {1: True})
    done = distill("compare", "one", "other")
    said = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stderr
    assert "after, 12 questions" in said
    assert "all 12 0.0% 66.7% +66.7 points, 95% interval +" in said
    assert "p = 0.008" in said and "McNemar's exact test" in said
    assert "difficulty 1 6 0.0% 66.7%" in said and "source b 6" in said
    assert "measured differently: verifier: math_answer and exact" in said
    for arguments, why in (
        (("one", "third"), "not asked the same questions"),
        (("one", "other", "--who", "befor"), "nobody was evaluated as 'befor'"),
        (("one", "absent"), "absent"),
    ):
        failed = distill("compare", *arguments)
        assert failed.returncode == 2
        assert why in failed.stderr and "Traceback" not in failed.stderr


def test_what_was_measured_differently_is_said(tmp_path):
    one = put_evaluate(tmp_path / "one", {1: True, 2: True})
    other = put_evaluate(tmp_path / "other", {1: True, 2: False}, verifier="exact", samples=4)
    assert compare_runs(one, other)["notes"] == [
        "verifier: math_answer and exact",
        "samples: None and 4",
    ]


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    one = put_evaluate(tmp_path / "one", {1: True, 2: True})
    other = put_evaluate(tmp_path / "other", {2: True, 3: True, 4: True})
    with pytest.raises(UserError, match=r"not asked the same questions: 2 and 3, of which 1 are"):
        compare_runs(one, other)
    with pytest.raises(UserError, match=r"evaluated as 'afte'.*after"):
        compare_runs(one, other, "afte")
    with pytest.raises(UserError, match="not done"):
        compare_runs(one, tmp_path / "absent")
    write_json(other / "evaluate" / "manifest.json", {"results": {"after": {}}})
    with pytest.raises(UserError, match="older version"):
        compare_runs(one, other)
