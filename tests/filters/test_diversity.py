import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import diversity as module
from filters.base import Context
from synth.core.record import Record, Task

TOPICS = {
    "sea": "The ship sails over the stormy ocean to the harbour with {} sailors on board.",
    "cake": "Bake a chocolate cake with {} eggs, sugar, butter and flour in the oven.",
    "law": "The court heard {} witnesses before the judge signed the contract.",
}


def made():
    counts = {"sea": 30, "cake": 6, "law": 4}
    texts = [(t, TOPICS[t].format(n)) for t in TOPICS for n in range(counts[t])]
    return [
        Record(f"{t}{i}", Task(f"t{i}", text, None, t), [], "thought", text)
        for i, (t, text) in enumerate(texts)
    ]


def run(records, **options):
    check = module.build(module.Config(**options), Context())
    return list(check(lambda: iter(records))), check


@pytest.fixture(autouse=True)
def _model():
    pytest.importorskip("wordllama")


@pytest.mark.parametrize("on", ["question", "trace"])
def test_every_topic_is_stood_for(on):
    records = made()
    decisions, check = run(records, total=3, on=on)
    kept = [r for r, d in zip(records, decisions, strict=True) if d.keep]
    assert sorted(r.task.source for r in kept) == ["cake", "law", "sea"]
    for record, decision in zip(records, decisions, strict=True):
        if not decision.keep:
            assert decision.evidence["stands_in"].startswith(record.task.source)
            assert decision.reason == f"not chosen: {decision.evidence['stands_in']} stands for it"
            assert 0.5 < decision.score <= 1
    assert sum(d.evidence["stands_for"] for d in decisions if d.keep) == len(records)
    assert check.notes[0].startswith("the mean cosine of a record with the kept one nearest")


@given(st.integers(1, 60), st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_exactly_so_many_whatever_the_order(total, rng):
    records = made()
    decisions, _ = run(records, total=total)
    kept = {r.id for r, d in zip(records, decisions, strict=True) if d.keep}
    assert len(kept) == min(total, len(records))
    shuffled = rng.sample(records, len(records))
    decisions, _ = run(shuffled, total=total)
    assert kept == {r.id for r, d in zip(shuffled, decisions, strict=True) if d.keep}


def unit(seed, size, width=8):
    vectors = np.random.default_rng(seed).normal(size=(size, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(8))
def test_the_choice_is_the_greedy_one_and_near_the_best(seed):
    vectors = unit(seed, 12)
    every = (vectors @ vectors.T).clip(0, 1)

    def value(places):
        return every[:, list(places)].max(axis=1).sum()

    greedy = []
    for _ in range(3):
        greedy.append(max(set(range(12)) - set(greedy), key=lambda p: value([*greedy, p])))
    nearest, cosines = module.neighbours(vectors.astype(np.float16), 12)
    kept, stand_in, cosine = module.facility_location(nearest, cosines, 3)
    found = np.flatnonzero(kept)
    assert value(found) == pytest.approx(value(greedy), rel=1e-2)
    best = max(value(three) for three in itertools.combinations(range(12), 3))
    assert value(found) >= (1 - 1 / np.e) * best
    assert cosine.sum() == pytest.approx(value(found), rel=1e-2)
    assert set(stand_in) <= {*found, -1}


def test_the_graph_finds_what_comparing_all_finds(monkeypatch):
    pytest.importorskip("usearch")
    vectors = unit(0, 2000, 32).astype(np.float16)
    exact, _ = module.neighbours(vectors, 32)
    monkeypatch.setattr(module, "_ALL_PAIRS", 10)
    found, cosines = module.neighbours(vectors, 32)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
    assert sum(shared) / exact.size > 0.9
    wide = vectors.astype(np.float32)
    assert cosines[7, 3] == pytest.approx(float(wide[7] @ wide[found[7, 3]]), abs=1e-3)
    again, _ = module.neighbours(vectors, 32)
    assert np.array_equal(found, again)


def test_odd_texts():
    texts = ["", "\ud800", "\0" * 1000, "same", "same", "🎈" * 5000]
    records = [Record(f"r{i}", Task("t", t), [], None, t) for i, t in enumerate(texts)]
    decisions, _ = run(records, total=2)
    assert sum(d.keep for d in decisions) == 2
    assert run([], total=2)[0] == []
    assert module.memory(module.Config(total=5), 100_000) > module.memory(module.Config(total=5), 9)
