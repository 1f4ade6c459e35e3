"""Choosing a token of the embedded teacher: shares, cuts and penalties."""

from collections import Counter
from concurrent.futures import Future

import pytest

from synth.teachers._transformers import sampling as sampling_module

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def rows(count, **sampling):
    import random

    read = sampling_module.read_sampling(sampling, "x")
    return [sampling_module.Row(Future(), [0], 1, 9, read, random.Random(i)) for i in range(count)]


def test_tokens_come_as_often_as_the_softmax_says():
    logits = torch.tensor([0.5, 0.25, 0.2, 0.05]).log()
    drawn = Counter(sampling_module.choose_tokens(logits.repeat(4000, 1), rows(4000)))
    assert [drawn[i] / 4000 for i in range(4)] == pytest.approx([0.5, 0.25, 0.2, 0.05], abs=0.03)
    # Half the temperature squares the odds.
    drawn = Counter(
        sampling_module.choose_tokens(logits.repeat(4000, 1), rows(4000, temperature=0.5))
    )
    assert drawn[0] / 4000 == pytest.approx(0.25 / 0.355, abs=0.03)


@pytest.mark.parametrize("vocabulary", [50, 5000])
@pytest.mark.parametrize("spread", [0.01, 3.0], ids=["flat", "peaked"])
@pytest.mark.parametrize(
    "cut", [{"top_k": 7}, {"top_p": 0.8}, {"top_k": 20, "top_p": 0.6}, {"top_p": 0.99}], ids=str
)
def test_cuts_are_those_of_transformers(vocabulary, spread, cut):
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    torch.manual_seed(1)
    logits = torch.randn(2, vocabulary) * spread
    expected = logits
    if "top_k" in cut:
        expected = TopKLogitsWarper(cut["top_k"])(None, expected)
    if "top_p" in cut:
        expected = TopPLogitsWarper(cut["top_p"])(None, expected)
    expected = expected.softmax(-1)
    weights, order = sampling_module._nucleus(
        logits.softmax(-1),
        torch.full((2, 1), float(cut.get("top_k", vocabulary))),
        torch.full((2, 1), cut.get("top_p", 1.0)),
    )
    found = torch.zeros_like(logits).scatter(-1, order, weights / weights.sum(-1, keepdim=True))
    # One token at the very edge may fall either way by rounding: that is what atol allows.
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0.01)


def test_rows_with_different_parameters_keep_to_their_own():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.9]]).repeat(40, 1)
    mixed = rows(20, temperature=0) + rows(10, top_k=1) + rows(10, top_k=2, temperature=5)
    drawn = sampling_module.choose_tokens(logits, mixed)
    assert set(drawn[:30]) == {1}
    assert set(drawn[30:]) == {1, 3}


def test_repetition_penalty_counts_the_prompt():
    logits = torch.tensor([[1.0, 0.9]])
    assert sampling_module.choose_tokens(logits.clone(), rows(1, temperature=0)) == [0]
    penalised = rows(1, temperature=0, repetition_penalty=1.5)
    assert sampling_module.choose_tokens(logits.clone(), penalised) == [1]
