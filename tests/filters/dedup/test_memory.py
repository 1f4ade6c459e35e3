"""What the filters say that they hold, beside what they are seen to hold."""

import json
import subprocess
import sys

import pytest

from synth.core import plugins

MEASURED = """
import json, random, resource, sys
from filters.base import Context
from synth.core import plugins
from synth.core.record import Record, Task

name, count, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])

def records():
    rng = random.Random(0)
    for n in range(count):
        if n % 3 == 0:
            words = [f"w{rng.randrange(9999)}" for _ in range(60)]
        elif n % 3 == 1:
            words[n % 60] = "other"
        yield Record(f"task-of-a-usual-id-{n}", Task(f"{n // 6}", "q"), [], None, " ".join(words))

module = plugins.load("filter", name)
check = module.build(module.Config(**options), Context(workers=2))
dropped = sum(not decision.keep for decision in check(records))
print(json.dumps([dropped, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def peak(name, count, options):
    # Through a shell: the peak of a process begins with that of the one which started it.
    command = [sys.executable, "-c", MEASURED, name, str(count), json.dumps(options)]
    done = subprocess.run(
        ["sh", "-c", '"$@"; exit $?', "sh", *command], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "few"),
    [
        ("exact_dedup", {}, 200_000),
        ("near_dedup", {}, 200_000),
        ("near_dedup", {"per_question": False}, 100_000),
        ("semantic_dedup", {"per_question": False}, 2_000),
    ],
)
def test_memory_is_what_is_said(name, options, few):
    if name == "semantic_dedup":
        pytest.importorskip("wordllama")
    module = plugins.load("filter", name)
    config = module.Config(**options)
    many = 2 * few
    (_, small), (dropped, large) = peak(name, few, options), peak(name, many, options)
    said = module.memory(config, many)
    each = (large - small) / (many - few)
    stated = (said - module.memory(config, few)) / (many - few)
    print(name, options, f"{each:.0f} B a record, said {stated:.0f}; {large:,} of {said:,}")
    assert said / 3 < large < said
    if name != "semantic_dedup":  # so few records of it do not show beside the model
        assert dropped
        assert stated / 3 < each < stated
