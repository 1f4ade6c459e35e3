import pytest

from filters.contract import Context
from synth.record import Task

APPLES = "Tom has 1,234 apples, gives half of them to Ann and eats three. How many are left?"


@pytest.fixture
def overlap(make, record):
    def run(question, *evaluation, **options):
        tasks = [Task(f"e{i}", text) for i, text in enumerate(evaluation)]
        return make("overlap", Context(eval_tasks=tasks), **options)(record(question=question))

    return run


def test_the_same_question_set_otherwise(overlap):
    found = overlap(APPLES.upper().replace("1,234", "$1234$"), "What is 2 + 2?", APPLES)
    assert found.reason == "overlaps evaluation: e1 (the same question)"


@pytest.mark.parametrize("one", ["34 + 12", "34+12", "12 + 34 ="])
def test_reordered(overlap, one):
    evaluation = "12 + 34 =" if "=" in one else "12 + 34"
    assert not overlap(one, evaluation).keep


def test_subtraction_is_on_the_careful_side(overlap):
    reason = "overlaps evaluation: e0 (same words in another order)"
    assert overlap("34 - 12", "12 - 34").reason == reason
    assert overlap("34 - 12", "12 - 34", reordered=False).keep
    assert overlap("34 + 12", "12 - 34").keep


def test_shared_words(overlap):
    longer = f"Read this. {APPLES[:60]}, and what is that in pounds?"
    found = overlap(longer, APPLES)
    assert "e0 (shares 'tom has 1234 apples gives half of them')" in found.reason
    assert overlap(longer, APPLES, words=50).keep
    assert overlap("Tom has 1,234 apples and I have none.", APPLES).keep


def test_a_short_evaluation_question_within_a_longer_one(overlap):
    assert not overlap("Tell me now: what is 17 times 23?", "What is 17 times 23?").keep
    assert overlap("What is 17 + 23 - 5?", "17 + 23").keep


def test_the_wording_of_a_template_does_not_count(overlap):
    template = "State the final answer to the following arithmetic problem: {} ="
    evaluation = [template.format(f"{a} + {a + 7}") for a in range(10, 40)]
    assert overlap(template.format("11 + 55"), *evaluation).keep
    assert not overlap(template.format("11 + 18"), *evaluation).keep
    assert not overlap(template.format("18 + 11"), *evaluation).keep


def test_one_evaluation_question_twice_is_no_template(overlap):
    assert not overlap(f"Well. {APPLES}", APPLES, APPLES).keep


def test_chinese(overlap):
    evaluation = "小明有１２个苹果，他又买了３个苹果，一共有多少个苹果？"
    assert not overlap("小明有12个苹果，他又买了3个苹果，一共有多少个苹果", evaluation).keep
    assert not overlap("问题：小明有12个苹果，他又买了3个苹果，一共有几个？", evaluation).keep
    assert overlap("树上有5只鸟，又来了6只，一共有多少只鸟？", evaluation).keep


def test_nothing_to_overlap_with(overlap):
    assert overlap("What is 2 + 2?").keep
    assert overlap("", "", "?").keep


def test_real_questions(make, record, rows):
    evaluation = [Task(f"e{i}", row["question"]) for i, row in enumerate(rows("gsm8k-test.jsonl"))]
    check = make("overlap", Context(eval_tasks=evaluation))
    assert all(not check(record(question=task.question)).keep for task in evaluation)
    train = [row["question"] for row in rows("gsm8k-train.jsonl")]
    dropped = sum(not check(record(question=question)).keep for question in train)
    assert dropped / len(train) < 0.02
