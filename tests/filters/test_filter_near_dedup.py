import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters.near_dedup import Config, jaccard, shingles

WORDS = st.lists(st.sampled_from(["one", "two", "三", "four", "=", "5"]), max_size=30)


def by_hand(one, other, n):
    def runs(tokens):
        padded = [""] * (n - 1) + tokens + [""] * (n - 1)
        return {tuple(padded[i : i + n]) for i in range(len(padded) - n + 1)}

    a, b = runs(one), runs(other)
    return len(a & b) / len(a | b) if a | b else 1.0


@given(WORDS, WORDS, st.integers(1, 8))
def test_jaccard_is_the_one_counted_by_hand(one, other, n):
    found = jaccard(shingles(" ".join(one), n), shingles(" ".join(other), n))
    assert found == pytest.approx(by_hand(one, other, n))


@given(st.text())
def test_any_text_equals_itself(text):
    assert jaccard(shingles(text, 5), shingles(text, 5)) == 1


def prose(rng, n=200):
    return [f"w{rng.randrange(3000)}" for _ in range(n)]


def changed(words, rng, n):
    words = list(words)
    for place in rng.sample(range(len(words)), n):
        words[place] = f"other{rng.randrange(100)}"
    return words


def test_names_the_partner_and_the_exact_similarity(make, record):
    words = prose(random.Random(0))
    check = make("near_dedup")
    assert check(record(" ".join(words), id="a")).keep
    near = changed(words, random.Random(1), 2)
    decision = check(record(" ".join(near), id="b"))
    expected = by_hand(words, near, 5)
    assert decision.score == pytest.approx(expected)
    assert decision.reason == f"near duplicate: of a (J={expected:.2f})"
    far = changed(words, random.Random(2), 40)
    decision = check(record(" ".join(far), id="c"))
    assert decision.keep
    assert decision.score == pytest.approx(by_hand(words, far, 5))


def test_only_what_was_kept_is_compared_with(make, record):
    words = prose(random.Random(0))
    steps = [words[:]]
    for i in range(6):
        steps.append([*steps[-1][: i * 8], f"new{i}", f"new{i}b", *steps[-1][i * 8 + 2 :]])
    check = make("near_dedup", threshold=0.9)
    kept = [check(record(" ".join(step), id=str(i))).keep for i, step in enumerate(steps)]
    assert kept[0]
    assert any(kept[1:])  # the chain of small changes does not fall as a whole
    assert not all(kept)


def test_traces_of_other_questions_are_left_alone_by_default(make, record):
    a, b = "Add 3 and 4. The sum is 7.", "Add 3 and 4. The sum is 7."
    check = make("near_dedup")
    assert check(record(a, id="a", task="1")).keep
    assert check(record(b, id="b", task="2")).keep
    assert not check(record(b, id="c", task="2")).keep


def test_all_questions_on_request(make, record):
    words = prose(random.Random(0))
    check = make("near_dedup", per_question=False)
    assert check(record(" ".join(words), id="a", task="1")).keep
    assert not check(record(" ".join(words[:-1]), id="b", task="2")).keep


def test_questions(make, record):
    check = make("near_dedup", on="question", threshold=0.6)
    long = "Tom has three apples and buys four more at the market on Monday morning"
    assert check(record("1", id="a", task="1", question=long)).keep
    assert not check(record("2", id="b", task="2", question=f"{long}?")).keep
    assert check(record("1", id="c", task="3", question="What is two and two?")).keep


def test_short_and_empty_texts(make, record):
    check = make("near_dedup")
    assert check(record("x = 5", id="a")).keep
    assert not check(record("X = 5", id="b")).keep
    assert check(record("x = 6", id="c")).keep
    assert check(record("", id="d")).keep
    assert not check(record(" ", id="e")).keep


def test_chinese(make, record):
    text = "小明有十二个苹果，他又买了三个苹果，所以他一共有十五个苹果。因此答案是十五。"
    text = "题目问的是苹果的总数，我们先看他原来有几个，再看他买了几个，最后把两个数加起来。" + text
    check = make("near_dedup")
    assert check(record(text, id="a")).keep
    assert not check(record(text.replace("因此", "所以"), id="b")).keep
    assert check(record("今天天气很好，我们去公园里玩吧，一共有六个人。", id="c")).keep


def test_recall_over_all_records(make, record):
    rng = random.Random(0)
    check = make("near_dedup", per_question=False)
    true = found = false = 0
    for i in range(400):
        words = prose(rng)
        check(record(" ".join(words), id=f"{i}", task=f"{i}"))
        near = changed(words, rng, rng.randint(1, 5))
        decision = check(record(" ".join(near), id=f"{i}-near", task=f"{i}-near"))
        is_near = by_hand(words, near, 5) >= 0.8
        true += is_near
        found += is_near and not decision.keep
        false += not is_near and not decision.keep
    assert false == 0
    assert found / true > 0.95


def test_per_question_on_questions_is_refused():
    with pytest.raises(ValidationError):
        Config(on="question", per_question=True)
