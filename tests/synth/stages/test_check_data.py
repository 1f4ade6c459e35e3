"""`distill validate` looks into local files: wrong columns, and what training would leave out."""

import json

import pytest

from synth.config.validate import load_run
from synth.core.errors import ConfigError
from synth.stages.check_data import check_data

ROWS = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(3)]
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "2"},
]


@pytest.fixture
def check(tmp_path):
    def run(rows, entry, kind="tasks", **sections):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        entry = {"path": str(path), **entry}
        made = {
            "tasks": {"tasks": {"train": [{"source": "jsonl", **entry}]}},
            "traces": {"traces": [{"source": "file", **entry}]},
        }[kind]
        said = []
        checked, source = load_run({"name": "r", **made, **sections})
        check_data(checked, source, said.append)
        return said

    return run


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"question": "qestion"}, "no column 'qestion'; did you mean 'question'"),
        ({"answer": "anwser"}, "no row has the column 'anwser'; did you mean 'answer'"),
        ({"columns": {"level": "lvl"}}, "no column 'lvl'"),
    ],
)
def test_a_column_that_is_not_there(check, entry, says):
    with pytest.raises(ConfigError, match=rf"tasks\.train\.0: .*{says}"):
        check(ROWS, entry)


@pytest.mark.parametrize("entry", [{}, {"answer": None}, {"limit": 1, "shuffle": 3}])
def test_files_that_are_right(check, entry):
    assert check(ROWS, entry) == []


def test_traces_whose_columns_are_not_there(check):
    with pytest.raises(ConfigError, match=r"traces\.0: .*no column 'respnse'"):
        check(ROWS, {"columns": {"question": "question", "response": "respnse"}}, "traces")


def test_conversations_that_training_would_refuse(check):
    train = {"student": {"model": "no/such", "prompt": {"template": "plain"}}, "train": {}}
    talk, single = {"messages": TURNS}, {"messages": TURNS[1:]}
    with pytest.raises(ConfigError, match="of 1 of 1 traces: a system prompt 1"):
        check([talk], {}, "traces", **train)
    assert "training refuses these" in check([talk, single], {}, "traces", **train)[0]
    assert check([single], {}, "traces", **train) == []
    assert check([talk], {}, "traces") == []
