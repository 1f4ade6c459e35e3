"""What tests of filters share."""

import pytest

from tests.helpers.filter_records import make_check, make_record


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
