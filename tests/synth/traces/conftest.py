"""The real data, where it lies beside the checkout."""

import json
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture
def rows():
    """Reads a file of the real data; skips where it is not there."""

    def read(name):
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{name} is not here")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]

    return read
