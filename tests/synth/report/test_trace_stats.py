"""Which traces are shown: every reason, and as many as there are."""

import pytest

from synth.report.trace_stats import TRACES_SHOWN, spread
from tests.helpers.run_folders import trace


def test_spread_shows_every_reason_and_reads_all():
    reasons = ["a", "a", "a", "b"] * 100 + ["c"]
    records = [trace(n, f"{reason}: {n}") for n, reason in enumerate(reasons)]
    source = iter(records)
    shown = spread(source, len(records), lambda r: r.rejected_by.kind, TRACES_SHOWN)
    assert next(source, None) is None
    assert len(shown) == TRACES_SHOWN
    assert [record.rejected_by.kind for record in shown[:3]] == ["a", "b", "c"]
    assert len({record.id for record in shown}) == TRACES_SHOWN


@pytest.mark.parametrize("rows", [0, 1, 11, 12, 13, 23, 24, 25, 1000])
def test_spread_shows_as_many_as_there_are(rows):
    records = [trace(n) for n in range(rows)]
    assert len(spread(records, rows, lambda r: "one", 12)) == min(rows, 12)
