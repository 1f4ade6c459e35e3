import json
import random

import pytest

from filters._dedup.base import Banding
from filters.engine.calibrate_dedup import EDITS, calibrate
from synth.core.errors import UserError


@pytest.fixture
def traces(rows, record):
    """Real traces, a question each."""
    records = []
    for row in rows("math-cot-100.jsonl"):
        for n, text in enumerate(row["code"][:3]):
            id = f"{row['idx']}-{n}"
            records.append(record(text, id=id, task=f"{row['idx']}", question=row["question"]))
    return records


@pytest.mark.parametrize("per_question", [True, False])
def test_near_duplicates_in_real_traces(traces, per_question):
    options = {"per_question": per_question, "index": "no/such/place", "keep": 3}
    found = calibrate("near_dedup", lambda: iter(traces), options, pairs=240)
    assert found.records == 300 and found.planted == 240
    assert found.precision == 1.0 and found.wrong == []
    assert found.pairs.pairs > 120 and found.pairs.recall > 0.98
    assert [band.name for band in found.bands] == ["[0.8, 0.85)", "[0.85, 0.9)", "[0.9, 1]"]
    assert all(band.pairs > 20 for band in found.bands)
    assert sum(kind.pairs for kind in found.kinds) == found.pairs.pairs
    json.dumps(found.to_dict())
    assert calibrate("near_dedup", lambda: iter(traces), options, pairs=240) == found


def test_a_filter_that_misses_is_told(traces, monkeypatch):
    monkeypatch.setattr("filters.near_dedup.banding", lambda threshold: Banding(2, 8))
    options = {"per_question": False}
    found = calibrate("near_dedup", lambda: iter(traces), options, pairs=240)
    assert found.bands[0].recall < 0.8


def test_exact_duplicates(traces):
    found = calibrate("exact_dedup", lambda: iter(traces), {}, pairs=80)
    by_kind = {kind.name: kind for kind in found.kinds}
    assert by_kind["case and blanks"].pairs == 10
    assert found.pairs.recall == found.precision == 1.0
    assert by_kind["words left out"].pairs == 0


def test_of_meaning(traces):
    pytest.importorskip("wordllama")
    found = calibrate("semantic_dedup", lambda: iter(traces), {"on": "question"}, pairs=80)
    assert found.pairs.pairs > 40 and found.pairs.recall > 0.95
    assert found.precision == 1.0


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize(
    "text", ["", " ", "a", "\n\n", "word " * 50, "1 2 3. 4! 漢字\ud800", "." * 99]
)
def test_an_edit_takes_any_text(kind, text):
    for share in (0.0, 0.3, 0.5):
        assert isinstance(EDITS[kind](text, share, random.Random(0)), str)


def test_what_cannot_be_calibrated(record):
    with pytest.raises(UserError, match="near_dedup"):
        calibrate("length", lambda: iter([]), {})
    with pytest.raises(UserError, match="no text of 8 words"):
        calibrate("near_dedup", lambda: iter([record("two words")]), {})
