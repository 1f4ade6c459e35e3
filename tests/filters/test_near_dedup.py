import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters import near_dedup
from filters._dedup.minhash import jaccard, shingle_sets
from filters._text.words import words
from filters.base import Context
from filters.near_dedup import Config

WORDS = st.lists(st.sampled_from(["one", "two", "三", "four", "=", "5"]), max_size=30)


def by_hand(one, other, n=5):
    def runs(tokens):
        padded = [""] * (n - 1) + tokens + [""] * (n - 1)
        return {tuple(padded[i : i + n]) for i in range(len(padded) - n + 1)}

    a, b = runs(one), runs(other)
    return len(a & b) / len(a | b) if a | b else 1.0


def shingles(text, n=5):
    return shingle_sets([text], n).of(0)


def over(check, records):
    return list(check(lambda: iter(records)))


def kept(check, records):
    return [decision.keep for decision in over(check, records)]


def prose(rng, n=200):
    return [f"w{rng.randrange(3000)}" for _ in range(n)]


def changed(words, rng, n):
    words = list(words)
    for place in rng.sample(range(len(words)), n):
        words[place] = f"other{rng.randrange(100)}"
    return words


@given(WORDS, WORDS, st.integers(1, 8))
def test_jaccard_is_the_one_counted_by_hand(one, other, n):
    found = jaccard(shingles(" ".join(one), n), shingles(" ".join(other), n))
    assert found == pytest.approx(by_hand(one, other, n))


def test_names_the_partner_and_the_exact_similarity(make, record):
    words = prose(random.Random(0))
    near = changed(words, random.Random(1), 2)
    far = changed(words, random.Random(2), 40)
    texts = {"a": words, "b": near, "c": far}
    records = [record(" ".join(text), id=id) for id, text in texts.items()]
    first, second, third = over(make("near_dedup"), records)
    assert first.keep and first.score == 0
    expected = by_hand(words, near)
    assert second.score == pytest.approx(expected)
    assert second.threshold == 0.8
    assert second.evidence == {"partner": "a", "jaccard": round(expected, 4)}
    assert second.reason == f"near duplicate: of a (jaccard {expected:.3f})"
    assert third.keep
    assert third.score == pytest.approx(by_hand(words, far))


def steps_of_small_changes(record):
    words = prose(random.Random(0))
    steps = [words[:]]
    for i in range(6):
        steps.append([*steps[-1][: i * 8], f"new{i}", f"new{i}b", *steps[-1][i * 8 + 2 :]])
    return [record(" ".join(step), id=str(i)) for i, step in enumerate(steps)]


def test_only_what_stays_is_compared_with(make, record):
    decisions = over(make("near_dedup", threshold=0.9), steps_of_small_changes(record))
    assert decisions[0].keep
    assert any(decision.keep for decision in decisions[1:])
    assert not all(decision.keep for decision in decisions)
    stays = {str(i) for i, decision in enumerate(decisions) if decision.keep}
    assert all(d.evidence["partner"] in stays for d in decisions if not d.keep)


def test_chains_fall_as_a_whole_on_request(make, record):
    decisions = over(make("near_dedup", threshold=0.9, chains=True), steps_of_small_changes(record))
    assert [decision.keep for decision in decisions] == [True] + [False] * 6
    assert all(d.score >= 0.9 and d.evidence["stays"] == "0" for d in decisions[1:])


def test_traces_of_other_questions_are_left_alone_by_default(make, record):
    text = "Add 3 and 4. The sum is 7."
    records = [record(text, id=id, task=task) for id, task in (("a", "1"), ("b", "2"), ("c", "2"))]
    assert kept(make("near_dedup"), records) == [True, True, False]
    assert kept(make("near_dedup", per_question=False), records) == [True, False, False]


def test_questions(make, record):
    long = "Tom has three apples and buys four more at the market on Monday morning"
    records = [
        record("1", id="a", task="1", question=long),
        record("2", id="b", task="2", question=f"{long}?"),
        record("1", id="c", task="3", question="What is two and two?"),
    ]
    assert kept(make("near_dedup", on="question", threshold=0.6), records) == [True, False, True]
    both = make("near_dedup", on="question_and_trace", threshold=0.6)
    assert kept(both, [records[0], record("1", id="b", question=f"{long}.")]) == [True, False]
    assert kept(both, [records[0], record("9 " * 40, id="d", question=long)]) == [True, True]


def test_short_and_empty_texts(make, record):
    texts = ["x = 5", "X = 5", "x = 6", "", " "]
    records = [record(text, id=f"{n}") for n, text in enumerate(texts)]
    for per_question in (True, False):
        check = make("near_dedup", per_question=per_question)
        assert kept(check, records) == [True, False, True, True, False]
        assert kept(check, []) == []


def test_chinese(make, record):
    text = "小明有十二个苹果，他又买了三个苹果，所以他一共有十五个苹果。因此答案是十五。"
    text = "题目问的是苹果的总数，我们先看他原来有几个，再看他买了几个，最后把两个数加起来。" + text
    other = "今天天气很好，我们去公园里玩吧，一共有六个人。"
    texts = [text, text.replace("因此", "所以"), other]
    records = [record(text, id=f"{n}") for n, text in enumerate(texts)]
    assert kept(make("near_dedup"), records) == [True, False, True]


def planted(record, rng, pairs=400):
    records, similarity = [], {}
    for i in range(pairs):
        words = prose(rng)
        near = changed(words, rng, rng.randint(1, 6))
        records.append(record(" ".join(words), id=f"{i}", task=f"{i}"))
        records.append(record(" ".join(near), id=f"{i}-near", task=f"{i}-near"))
        similarity[f"{i}-near"] = by_hand(words, near)
    rng.shuffle(records)
    return records, similarity


def test_recall_and_precision_over_all_records(make, record):
    records, similarity = planted(record, random.Random(0))
    true = [id for id, found in similarity.items() if found >= 0.8]
    found = set()
    for one, decision in zip(
        records, over(make("near_dedup", per_question=False), records), strict=True
    ):
        if not decision.keep:
            pair = {one.id, decision.evidence["partner"]}
            near = next(id for id in pair if id.endswith("near"))
            assert pair == {near, near.removesuffix("-near")}
            assert decision.score == pytest.approx(similarity[near]) and decision.score >= 0.8
            found.add(near)
    assert len(found) / len(true) > 0.99


def test_the_same_whatever_the_workers(make, record):
    records, _ = planted(record, random.Random(1), 150)
    one, two, three = (
        over(make("near_dedup", Context(workers=n), per_question=False, best=["longest"]), records)
        for n in (1, 2, 3)
    )
    assert one == two == three
    assert not all(decision.keep for decision in one)


def test_lower_thresholds_keep_their_recall(make, record):
    rng = random.Random(0)
    records = []
    for i in range(200):
        words = prose(rng, 60)
        records.append(record(" ".join(words), id=f"{i}"))
        records.append(record(" ".join(changed(words, rng, 5)), id=f"{i}-near"))
    check = make("near_dedup", per_question=False, threshold=0.4)
    decisions = over(check, records)
    for i in range(200):
        one, other = records[2 * i], records[2 * i + 1]
        near = by_hand(words_of(one), words_of(other)) >= 0.4
        assert decisions[2 * i].keep and decisions[2 * i + 1].keep != near


def words_of(record):
    return words(record.answer)


@pytest.mark.slow
def test_many_alike_take_no_square_of_time(make, record):
    same = [record("I cannot help with that.", id=f"{n}") for n in range(20_000)]
    template = "Question number {} of the series asks for the sum of {} and {} in plain words"
    alike = [record(template.format(n, n * 7, n * 13), id=f"t{n}") for n in range(3000)]
    start = time.perf_counter()
    decisions = over(make("near_dedup", per_question=False), same + alike)
    assert time.perf_counter() - start < 60
    assert sum(decision.keep for decision in decisions) >= 3001


def test_a_growing_check_compares_with_what_it_kept(record):
    check = near_dedup.growing(Config(on="question", threshold=0.6))
    long = "Tom has three apples and buys four more at the market on Monday morning"
    assert check(record(id="a", question=long)).keep
    assert check(record(id="b", question=f"{long}?")).evidence["partner"] == "a"
    assert check(record(id="c", question="What is two and two?")).keep


def test_per_question_on_questions_is_refused():
    with pytest.raises(ValidationError):
        Config(on="question", per_question=True)
