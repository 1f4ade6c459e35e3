"""What tests of filters share."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for what tests here share
from making import DATA, make_check, make_record


@pytest.fixture
def record():
    return make_record


@pytest.fixture
def make():
    made = []

    def build(name, context=None, **options):
        made.append(make_check(name, context, **options))
        return made[-1]

    yield build
    for check in made:
        getattr(check, "close", lambda: None)()


@pytest.fixture
def rows():
    """Reads a file of the real data; skips where it does not lie beside the checkout."""

    def read(name):
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{name} is not here")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]

    return read
