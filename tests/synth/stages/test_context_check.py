"""What no training of a run would see of its traces is said before anything is bought."""

import json

import pytest

from synth.api import load_run
from synth.core.errors import UserError
from synth.stages.pipeline import do_stage

TALK = {
    "messages": [
        {"role": "system", "content": "You are CALC-BOT."},
        {"role": "user", "content": "Remember 100."},
        {"role": "assistant", "content": "<think>kept</think>I keep 100."},
        {"role": "user", "content": "Double it."},
        {"role": "assistant", "content": "<think>twice</think>200"},
    ]
}
SINGLE = {"messages": [TALK["messages"][3], TALK["messages"][4]]}


@pytest.fixture
def config(tmp_path):
    def make(rows, **sections):
        path = tmp_path / "traces.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        student = {"model": "no/such", "prompt": {"template": "plain"}}
        return load_run(
            {
                "name": "talks",
                "runs": str(tmp_path / "runs"),
                "traces": [{"source": "file", "path": str(path)}],
                "filters": ["truncated"],
                "student": student,
                "train": {},
                **sections,
            }
        )

    return make


def test_data_of_conversations_alone_is_refused_when_it_is_read(config):
    run = config([TALK, TALK])
    with pytest.raises(UserError) as caught:
        do_stage("import", run, print)
    text = str(caught.value)
    assert "2 of 2 traces: a system prompt 2, earlier turns 2 (the first: traces-" in text
    assert "`train.drop_context: true`" in text
    assert not (run.folder / "import").exists()


def test_of_mixed_data_the_counts_are_said_for_what_is_read_and_for_what_is_kept(config):
    said = []
    run = config([TALK, SINGLE, SINGLE])
    for stage in ("import", "filter"):
        do_stage(stage, run, said.append)
    counts = [line for line in said if "leaves out parts of 1 of 3 traces" in line]
    assert len(counts) == 2
    assert all("training refuses these, unless train.drop_context is true" in c for c in counts)


def test_a_user_who_drops_it_is_told_how_much(config):
    said = []
    do_stage("import", config([TALK, TALK], train={"drop_context": True}), said.append)
    assert any("2 of 2 traces" in line and "learned without it, as train" in line for line in said)


@pytest.mark.parametrize("rows", [[SINGLE], [TALK]])
def test_nothing_is_said_where_nothing_is_lost_or_nothing_is_trained(config, rows):
    said = []
    more = {} if rows == [SINGLE] else {"student": None, "train": None}
    run = config(rows, **more)
    for stage in ("import", "filter"):
        do_stage(stage, run, said.append)
    assert not any("leaves out" in line for line in said)
