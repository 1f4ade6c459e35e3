import random
import tracemalloc
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import length_outliers
from filters.base import Context
from synth.core.record import Record, Task


def trace(length, source="s"):
    return Record(
        "r", Task("t", "q", source=source), [], "x" * (length // 2), "y" * (length - length // 2)
    )


def judged(records, **options):
    check = length_outliers.build(length_outliers.Config(**options), Context())
    return list(check(lambda: iter(records)))


def usual(count, source="s"):
    rng = random.Random(0)
    return [trace(round(rng.lognormvariate(6, 0.4)), source) for _ in range(count)]


def test_what_is_far_from_its_source_is_dropped():
    records = [*usual(200), trace(20_000), trace(5), trace(400)]
    decisions = judged(records)
    long, short, fine = decisions[-3:]
    assert long.reason.startswith("far longer than others: z ")
    assert short.reason.startswith("far shorter than others: z -")
    assert long.score > 3.5 and short.score < -3.5 and long.threshold == 3.5
    assert fine.keep
    assert sum(not decision.keep for decision in decisions) <= 4


def test_a_source_is_compared_with_itself():
    records = usual(100) + [trace(100 * len(r.answer), "long") for r in usual(100)]
    assert sum(not decision.keep for decision in judged(records)) <= 2


def test_the_score_is_the_modified_z_score():
    records = [trace(n - 1) for n in (10, 100, 1000, 100_000)]
    # Logarithms to base 10 are 1, 2, 3, 5: median 2.5, distances 1.5, 0.5, 0.5, 2.5, MAD 1.
    decisions = judged(records, least=3, z=1.5)
    scores = [decision.score / 0.6745 for decision in decisions]
    assert scores == pytest.approx([-1.5, -0.5, 0.5, 2.5])
    assert [decision.keep for decision in decisions] == [True, True, True, False]
    assert decisions[3].evidence == {
        "length": 99_999, "median": 315, "mad": pytest.approx(2.3026, abs=1e-4), "records": 4
    }  # fmt: skip


def test_few_records_tell_nothing():
    [one, *_] = judged(usual(29))
    assert one.keep is None
    assert one.reason == "cannot tell: few records of this source"
    assert one.evidence["records"] == 29
    assert length_outliers.Config().cannot_tell == "tag"


def test_equal_lengths_have_no_scale():
    decisions = judged([trace(50)] * 40 + [trace(5000)])
    assert all(decision.keep for decision in decisions)
    assert decisions[0].score is None


@given(st.lists(st.integers(0, 3000), max_size=40))
def test_every_record_has_a_decision(lengths):
    decisions = judged([trace(length) for length in lengths], least=3)
    assert len(decisions) == len(lengths)
    if lengths:
        middle = min(lengths, key=lambda length: abs(length - median(lengths)))
        assert decisions[lengths.index(middle)].keep is not False


def test_real_traces_that_turned_into_noise_are_far_longer(rows):
    records, names = [], []
    for row in rows("math-cot-100.jsonl"):
        for number, text in enumerate(row["code"]):
            names.append(f"{row['idx']}-{number}")
            records.append(Record(names[-1], Task(str(row["idx"]), ""), [], None, text))
    far = {n for n, d in zip(names, judged(records), strict=True) if not d.keep}
    assert {"25-1", "45-5", "48-3"} <= far


def test_no_more_is_held_than_is_stated():
    count = 50_000
    trace(1)
    records = (trace(n % 997) for n in range(count))
    check = length_outliers.build(length_outliers.Config(), Context())
    tracemalloc.start()
    for _ in check(lambda: records):
        pass
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    stated = length_outliers.memory(length_outliers.Config(), count)
    assert stated / 2 < held < stated
