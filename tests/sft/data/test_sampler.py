"""Which examples meet in a batch, and when: how often, in which order, and that a place is enough."""

import random
from collections import Counter, defaultdict
from math import ceil, floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.data.dataset import Examples
from sft.data.sampler import BatchSampler, grouped, pack, pack_in_order
from synth.config.train import Train
from synth.core.errors import UserError

LAYOUTS = ["padded", "padding_free", "packed"]


def examples(lengths, questions=None, sources=None, rates=None):
    number = len(lengths)
    return Examples(
        table=None,
        ids=[f"r{i}" for i in range(number)],
        lengths=list(lengths),
        labelled=[1] * number,
        questions=list(questions or (f"q{i}" for i in range(number))),
        sources=list(sources or ["a"] * number),
        writers=[""] * number,
        pass_rates=list(rates or [-1.0] * number),
        content="",
    )


def met(order, start=0, end=None):
    """The examples of some groups, in the order in which they are met."""
    end = len(order) if end is None else end
    return [index for number in range(start, end) for row in order[number] for index in row]


def by_epoch(order):
    """The examples of each epoch."""
    found = defaultdict(list)
    for number in range(len(order)):
        found[ceil(order.epochs(number + 1)) - 1] += met(order, number, number + 1)
    return [found[epoch] for epoch in range(max(found) + 1)]


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=40)
SETTINGS = st.fixed_dictionaries(
    {
        "layout": st.sampled_from(LAYOUTS),
        "batch_size": st.integers(1, 7),
        "curriculum": st.sampled_from(["none", "short_first"]),
        "epochs": st.integers(1, 4),
    }
)


@given(LENGTHS, SETTINGS, st.integers(0, 9))
def test_every_epoch_has_each_example_once(lengths, config, seed):
    order = BatchSampler(examples(lengths), Train(**config), seed)
    epochs = by_epoch(order)
    assert len(epochs) == config["epochs"]
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(lengths)))
    assert order.epochs(len(order)) == config["epochs"]
    assert order.epochs(0) == 0
    for number in range(len(order)):
        group = order[number]
        if config["layout"] == "padding_free":
            assert len(group) == 1
            assert len(group[0]) <= config["batch_size"]
        else:
            assert len(group) <= config["batch_size"]
        if config["layout"] == "padded":
            assert all(len(row) == 1 for row in group)
        if config["layout"] == "packed":
            assert all(sum(lengths[i] for i in row) <= max(lengths) for row in group)


@given(LENGTHS, SETTINGS, st.integers(0, 9), st.booleans())
def test_a_group_depends_on_its_place_alone(lengths, config, seed, fresh):
    """A resumed run asks from the middle, a data loader's workers in any order."""
    data = examples(lengths, [f"q{i % 5}" for i in range(len(lengths))])
    mix = {"a": 1.5}
    one = BatchSampler(data, Train(**config, fresh_samples=fresh, mix=mix), seed)
    whole = [one[number] for number in range(len(one))]
    again = BatchSampler(data, Train(**config, fresh_samples=fresh, mix=mix), seed)
    places = list(range(len(whole)))
    random.Random(seed).shuffle(places)
    assert [again[place] for place in places] == [whole[place] for place in places]
    for outside in (-1, len(whole)):
        with pytest.raises(IndexError):
            again[outside]


def test_another_seed_or_epoch_has_another_order():
    data = examples([5] * 64)
    one, other = (BatchSampler(data, Train(batch_size=4), seed) for seed in (1, 2))
    assert met(one) != met(other)
    first, second = by_epoch(one)
    assert first != second


@given(
    st.dictionaries(
        st.sampled_from("abc"), st.floats(0, 3, allow_nan=False), min_size=1, max_size=3
    ),
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=40),
    st.integers(1, 5),
    st.sampled_from(LAYOUTS),
)
def test_a_mix_meets_each_example_of_a_source_as_often_as_it_says(mix, sources, epochs, layout):
    mix = {source: weight for source, weight in mix.items() if source in sources}
    data = examples([3] * len(sources), sources=sources)
    config = Train(mix=mix, epochs=epochs, batch_size=3, layout=layout)
    if sum(mix.get(source, 1.0) for source in sources) < 1:
        with pytest.raises(UserError, match=r"train\.mix"):
            BatchSampler(data, config, 0)
        return
    try:
        order = BatchSampler(data, config, 0)
    except UserError as error:
        assert "train.epochs" in str(error)  # so few that no round number of them is met
        return
    counts = Counter(met(order))
    for index, source in enumerate(sources):
        often = epochs * mix.get(source, 1.0)
        # The whole walk is rounded to an example, each example to a visit.
        each = round(often * sources.count(source)) / sources.count(source)
        assert floor(each) <= counts[index] <= ceil(each)
    for source in set(sources):
        size = sources.count(source)
        together = sum(counts[i] for i in range(len(sources)) if sources[i] == source)
        assert together == round(epochs * mix.get(source, 1.0) * size)


def test_half_a_source_an_epoch_is_the_other_half_in_the_next():
    order = BatchSampler(examples([3] * 20), Train(mix={"a": 0.5}, epochs=4, batch_size=5), 0)
    first, second, third, fourth = by_epoch(order)
    assert len(first) == len(second) == 10
    assert sorted(first + second) == sorted(third + fourth) == list(range(20))


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=12),
    st.integers(1, 6),
    st.integers(0, 5),
    st.sampled_from([1.0, 2.0, 0.5]),
)
def test_fresh_samples_takes_a_question_once_an_epoch_and_its_traces_in_turn(
    traces, epochs, seed, weight
):
    questions = [f"q{q}" for q, number in enumerate(traces) for _ in range(number)]
    config = Train(fresh_samples=True, epochs=epochs, batch_size=2, mix={"a": weight})
    if weight * len(traces) < 1:
        return
    order = BatchSampler(examples([3] * len(questions), questions), config, seed)
    counts = Counter(met(order))
    for question in set(questions):
        own = [counts[i] for i, q in enumerate(questions) if q == question]
        assert max(own) - min(own) <= 1, "no trace is met twice before all were met"
        expected = epochs * weight
        assert floor(expected) - 1 <= sum(own) <= ceil(expected) + 1
        if weight == 1:
            assert sum(own) == epochs
    if weight == 1:
        for epoch in by_epoch(order):
            assert sorted(questions[i] for i in epoch) == sorted(set(questions))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(50, 200), st.booleans())
def test_packs_never_exceed_the_row_and_hold_each_example_once(lengths, row, in_order):
    how = pack_in_order if in_order else pack
    rows = how(list(range(len(lengths))), lengths, row)
    assert sorted(index for members in rows for index in members) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in members) <= row for members in rows)
    if in_order:
        assert [index for members in rows for index in members] == list(range(len(lengths)))


def fewest_rows(lengths, row):
    """The best packing there is, by trying all."""
    best = {0: (1, 0)}  # of each subset: rows, and what lies in the last of them
    for subset in range(1, 2 ** len(lengths)):
        ways = []
        for index, length in enumerate(lengths):
            if subset >> index & 1:
                rows, used = best[subset & ~(1 << index)]
                ways.append((rows, used + length) if used + length <= row else (rows + 1, length))
        best[subset] = min(ways)
    return best[2 ** len(lengths) - 1][0]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=9), st.integers(60, 120))
def test_best_fit_is_within_its_bound_of_the_best_packing(lengths, row):
    """Best fit, longest first, takes at most 11/9 of the fewest rows and 6/9 (Dosa 2007)."""
    rows = pack(range(len(lengths)), lengths, row)
    assert len(rows) <= 11 / 9 * fewest_rows(lengths, row) + 6 / 9


def test_real_lengths_are_packed_almost_without_loss():
    chance = random.Random(0)
    lengths = [min(4096, int(chance.lognormvariate(6.5, 0.7)) + 1) for _ in range(20_000)]
    rows = pack(range(len(lengths)), lengths, 4096)
    assert sum(lengths) / (4096 * len(rows)) > 0.99


def test_short_first_and_easy_first():
    chance = random.Random(0)
    lengths = [chance.randrange(1, 100) for _ in range(50)]
    rates = [chance.random() for _ in lengths]
    for layout in LAYOUTS:
        config = {"layout": layout, "batch_size": 4, "epochs": 2}
        short = by_epoch(
            BatchSampler(examples(lengths), Train(curriculum="short_first", **config), 0)
        )
        for epoch in short:
            assert [lengths[i] for i in epoch] == sorted(lengths)
        data = examples(lengths, rates=rates)
        easy = by_epoch(BatchSampler(data, Train(curriculum="easy_first", **config), 0))
        for epoch in easy:
            assert [rates[i] for i in epoch] == sorted(rates, reverse=True)


def test_the_longest_batch_comes_first_once():
    lengths = list(range(1, 41))
    first = by_epoch(BatchSampler(examples(lengths), Train(batch_size=4, epochs=2), 0))
    assert 39 in first[0][:4]
    assert sorted(first[0]) == sorted(first[1]) == list(range(40))


@given(LENGTHS, st.integers(1, 6), st.floats(0.05, 3.5))
def test_a_part_of_an_epoch(lengths, batch, epochs):
    order = BatchSampler(examples(lengths), Train(batch_size=batch, epochs=epochs), 0)
    per_epoch = ceil(len(lengths) / batch)
    assert abs(len(order) - epochs * per_epoch) <= 1
    assert len(order) >= 1
    assert order.epochs(len(order)) == pytest.approx(len(order) / per_epoch)


@given(LENGTHS, st.integers(1, 30), st.integers(1, 4), st.sampled_from(LAYOUTS))
def test_max_steps_takes_so_many_groups_over_as_many_epochs_as_it_needs(
    lengths, steps, parts, layout
):
    config = Train(max_steps=steps, batch_size=3, layout=layout)
    order = BatchSampler(examples(lengths), config, 0, parts)
    assert len(order) == steps * parts
    met(order)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=300), st.integers(1, 9))
def test_batches_of_like_length_waste_less(lengths, batch):
    batches = grouped(range(len(lengths)), lengths, batch, random.Random(0))
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    assert all(len(b) == batch for b in batches[:-1])

    def padded(batches):
        return sum(len(b) * max(lengths[i] for i in b) for b in batches)

    plain = [list(range(len(lengths)))[i : i + batch] for i in range(0, len(lengths), batch)]
    if len(lengths) <= 50 * batch and len(lengths) % batch == 0:
        assert padded(batches) <= padded(plain)


def test_a_hundred_thousand_epochs_of_one_example_are_laid_out_in_time():
    order = BatchSampler(examples([3]), Train(max_steps=100_000), 0)
    assert order[99_999] == [[0]]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"mix": {"math": 1, "cod": 2}}, "no example is from 'cod'; did you mean 'code'"),
        ({"mix": {"math": 0, "code": 0}}, "less than one example"),
        ({"mix": {"math": 1e-9, "code": 0}, "max_steps": 3}, "less than one example"),
        ({"mix": {"math": float("inf")}}, "train.mix.math: inf; expected at most 10,000"),
        ({"mix": {"math": 1e30}}, "at most 10,000"),
        ({"epochs": float("inf")}, "train.epochs: inf; expected at most 10,000"),
        ({"curriculum": "easy_first"}, "add the filter pass_rate"),
        ({"layout": "packed", "pack_length": 8}, "8 tokens, but the longest example has 30"),
        ({"layout": "packed", "max_length": 20}, "20 tokens, but the longest example has 30"),
    ],
)
def test_what_cannot_be_is_refused(config, said):
    data = examples([10, 30], sources=["math", "code"])
    with pytest.raises(UserError, match=said):
        BatchSampler(data, Train(**config), 0)
