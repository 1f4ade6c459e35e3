"""What tests of filters share: records made from texts, and filters made from options."""

import json
import sys
from pathlib import Path

import pytest

from filters.contract import Context, Decision, decide
from synth import plugins
from synth.record import Generation, Record, Task

sys.path.insert(0, str(Path(__file__).parent))  # for what tests here share
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def make_record(
    answer="", reasoning=None, *, id="r", task="t", question="q", reference=None, finish=None
):
    generation = None
    if finish is not None:
        generation = Generation("t", "m", "p", "", {}, 0, finish, None, None, None, 0.0, "")
    return Record(id, Task(task, question, reference), [], reasoning, answer, generation)


def make_check(name, context=None, **options):
    """The check of a filter; where it only measures, its figures are held to the bounds."""
    module = plugins.load("filter", name)
    config = module.Config(**options)
    check = module.build(config, context or Context())
    if not hasattr(module, "MEASURES"):
        return check

    def held(record):
        found = check(record)
        return found if isinstance(found, Decision) else decide(found, config, module.MEASURES)

    return held


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
