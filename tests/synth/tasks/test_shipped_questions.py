"""The questions of the shipped configs are files, made from reasoning-gym once.

`python tests/synth/tasks/test_shipped_questions.py` makes them anew, where reasoning-gym is installed.
"""

import json

import pytest

from synth.config.validate import load_run
from synth.core.files import package_file
from synth.core.record import digest
from synth.tasks import load_tasks
from synth.tasks import reasoning_gym as source

# Question i of seed s is question i - 1 of seed s + 1: seeds nearer than `size` share some.
FILES = {
    "sums": {"size": 600, "seed": 11, "digits": 2},
    "sums-held-out": {"size": 16, "seed": 5000, "digits": 2},
    "sums-one-digit": {"size": 56, "seed": 7, "digits": 1},
}


def path(name):
    return package_file("package:synth/tasks/_questions/README.md", name).with_name(f"{name}.jsonl")


def made(size, seed, digits):
    options = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": digits}
    config = source.Config(generator="chain_sum", size=size, seed=seed, options=options)
    return "".join(json.dumps(row.values) + "\n" for row in source.build(config))


@pytest.mark.parametrize("name", FILES)
def test_they_are_what_the_generator_gives(name):
    pytest.importorskip("reasoning_gym")
    assert path(name).read_text() == made(**FILES[name])


@pytest.mark.parametrize(
    ("config", "train", "evaluation", "digest_of_ids"),
    [
        ("quickstart", 298, 150, "7ce133ddea5a"),
        ("quickstart-vllm", 110, 0, "0c37512ada87"),
        ("r1-distill-tiny", 86, 16, "c92bf2f9a0e0"),
        ("chain-tiny", 41, 8, "1a8ad1ef34c2"),
        ("two-teachers", 29, 0, "d16e63e084c6"),
    ],
)
def test_the_configs_ask_what_they_always_asked(config, train, evaluation, digest_of_ids):
    """An id stands for question, answer and metadata; these are of when reasoning-gym was asked."""
    run, _ = load_run(config)
    tasks = load_tasks(run.tasks, run.seed)
    assert (len(tasks.train), len(tasks.eval)) == (train, evaluation)
    ids = [task.id for task in tasks.train + tasks.eval]
    assert digest(ids)[:12] == digest_of_ids


def test_the_answers_are_right():
    for name in FILES:
        for line in path(name).read_text().splitlines():
            row = json.loads(line)
            first, sign, second = row["expression"].split()
            total = int(first) + int(second) * (1 if sign == "+" else -1)
            assert row["answer"] == str(total)
            assert row["expression"] in row["question"]


if __name__ == "__main__":
    for name, options in FILES.items():
        path(name).write_text(made(**options))
