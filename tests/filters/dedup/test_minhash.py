"""Runs of words as hashes, signatures and their bands."""

import random
import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters._dedup.base import Banding, banding, folded
from filters._dedup.minhash import (
    band_keys,
    batches,
    in_order,
    jaccard,
    shingle_sets,
    signatures,
)
from filters._text.words import words

HOSTILE = {
    "nul": "\0" * 1_000_000,
    "one word": "x" * 1_000_000,
    "blanks": " " * 1_000_000,
    "marks": "." * 1_000_000,
    "marks to combine": "a" + "\u0301\u0323" * 500_000,
    "surrogates": "\ud800" * 1_000_000,
    "right to left": "\u202e" * 1_000_000,
    "letters that grow": "\ufdfa" * 100_000,
    "boxes": r"\boxed{" * 100_000,
    "chinese": "漢字" * 500_000,
    "words": "a b " * 250_000,
}


def runs(text, n):
    tokens = words(folded(text))
    padded = [""] * (n - 1) + tokens + [""] * (n - 1)
    return {tuple(padded[i : i + n]) for i in range(len(padded) - n + 1)}


@given(st.lists(st.text(), max_size=6), st.integers(1, 6))
@settings(max_examples=300)
def test_sets_are_those_of_the_runs_of_words_whatever_stands_beside(texts, n):
    sets = shingle_sets(texts, n)
    assert len(sets.offsets) == len(texts) + 1
    alone = [shingle_sets([text], n).of(0) for text in texts]
    for place, text in enumerate(texts):
        assert len(sets.of(place)) == len(runs(text, n))
        assert np.array_equal(sets.of(place), alone[place])
        assert np.all(np.diff(sets.of(place).astype(np.int64)) > 0)
        for other, two in zip(texts, alone, strict=True):
            a, b = runs(text, n), runs(other, n)
            expected = len(a & b) / len(a | b) if a | b else 1.0
            assert jaccard(sets.of(place), two) == expected


@given(st.text())
def test_folding_is_nfkc_and_case(text):
    assert folded(text) == unicodedata.normalize("NFKC", text).casefold()


@pytest.mark.parametrize("size", [1, 12, 60, 400, 3000])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_bin_is_shared_as_often_as_the_jaccard_says(size, share):
    rng = random.Random(size)
    errors = []
    for trial in range(60):
        both = [f"{trial}b{n}" for n in range(round(size * share))]
        one, other = (
            both + [f"{trial}{side}{n}" for n in range((size - len(both)) // 2)] for side in "xy"
        )
        for tokens in (one, other):
            rng.shuffle(tokens)
        sets = shingle_sets([" ".join(one), " ".join(other)], 1)
        table = signatures(sets, 168)
        errors.append(float(np.mean(table[0] == table[1])) - jaccard(sets.of(0), sets.of(1)))
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 0.05  # 168 independent ones would give 0.035


def test_sets_of_all_sizes_fit_together():
    tokens = [f"w{n}" for n in range(1200)]
    sets = shingle_sets([" ".join(tokens[:size]) for size in range(1, 1200)], 1)
    table = signatures(sets, 168)
    shared = (table[1:] == table[:-1]).mean(axis=1)
    sizes = np.arange(1, 1199)
    assert np.abs(shared - sizes / (sizes + 1)).max() < 0.15


def test_the_curve_of_the_bands():
    assert banding(0.8) == Banding(24, 7)
    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 1.0):
        assert banding(threshold).chance(threshold) > 0.99
    rng = random.Random(0)
    met, expected = 0, 0.0
    for trial in range(400):
        one = [f"{trial}w{n}" for n in range(100)]
        other = [*one[:-12], *(f"{trial}v{n}" for n in range(12))]
        rng.shuffle(one)
        sets = shingle_sets([" ".join(one), " ".join(other)], 1)
        keys = band_keys(sets, Banding(4, 8))
        met += bool((keys[0] == keys[1]).any())
        expected += Banding(4, 8).chance(jaccard(sets.of(0), sets.of(1)))
    assert met == pytest.approx(expected, abs=4 * (400 * 0.25) ** 0.5)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_take_linear_time(text):
    start = time.process_time()
    sets = shingle_sets([text, text[: len(text) // 2], "plain words"], 5)
    band_keys(sets, banding(0.8))
    assert time.process_time() - start < 10
    assert jaccard(sets.of(0), sets.of(0)) == 1


def test_batches_and_threads_keep_the_order():
    texts = [(n, "x" * (n % 7)) for n in range(100)]
    grouped = list(batches(texts, 20))
    assert [item for batch in grouped for item in batch] == texts
    assert all(sum(len(text) + 1 for _, text in batch) < 20 + 7 for batch in grouped)

    def slow(number):
        time.sleep(random.random() / 500)
        return number

    assert list(in_order(slow, range(50), 4)) == list(range(50))
