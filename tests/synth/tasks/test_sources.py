"""Task sources: every format, columns, limits, malformed rows, and a split that holds."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from synth.config.run import Tasks
from synth.core.errors import UserError
from synth.core.text.question_text import question_key
from synth.tasks import load_tasks, source_tasks

ROWS = [{"problem": f"What is {n} + {n}?", "solution": str(2 * n), "level": n} for n in range(10)]
COLUMNS = {"question": "problem", "answer": "solution"}


def tasks_of(entry):
    skipped = []
    return list(source_tasks(entry, skipped)), skipped


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(
    params=["jsonl", "jsonl.gz", "jsonl.zst", "csv", "parquet", "folder", "saved", "inline"]
)
def source(request, tmp_path):
    path = tmp_path / f"rows.{request.param}"
    if request.param == "jsonl":
        write_jsonl(path, ROWS)
    elif request.param == "jsonl.gz":
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS)).encode()))
    elif request.param == "jsonl.zst":
        path.write_bytes(zstandard.compress("\n".join(map(json.dumps, ROWS)).encode()))
    elif request.param == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    elif request.param == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif request.param == "folder":
        path.mkdir()
        pq.write_table(pa.Table.from_pylist(ROWS[:5]), path / "a.parquet")
        pq.write_table(pa.Table.from_pylist(ROWS[5:]), path / "b.parquet")
    elif request.param == "saved":
        import datasets

        datasets.Dataset.from_list(ROWS).save_to_disk(path)
        return {"source": "hub", "dataset": str(path)}
    else:
        return {"source": "inline", "tasks": ROWS}
    kind = request.param.partition(".")[0].replace("folder", "parquet")
    return {"source": kind, "path": str(path)}


def test_every_format_gives_the_same_tasks(source):
    tasks, skipped = tasks_of(source | COLUMNS)
    assert [(t.question, t.answer) for t in tasks] == [(r["problem"], r["solution"]) for r in ROWS]
    assert not skipped
    assert [int(t.metadata["level"]) for t in tasks] == list(range(10))
    assert len({t.id for t in tasks}) == 10


def test_limit_shuffle_and_columns(source):
    entry = source | COLUMNS | {"limit": 4, "shuffle": 3, "columns": {"difficulty": "level"}}
    first, again = tasks_of(entry)[0], tasks_of(entry)[0]
    assert len(first) == 4
    assert first == again
    assert [t.question for t in first] != [r["problem"] for r in ROWS[:4]]
    assert {"difficulty"} == set(first[0].metadata)


def test_malformed_lines_are_named_and_the_rest_goes_on(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [
        json.dumps(ROWS[0]),
        "{not json",
        "[1, 2]",
        "",
        json.dumps({"other": 1}),
        '{"problem": ""}',
        json.dumps(ROWS[1]),
    ]
    path.write_bytes("\n".join(lines).encode() + b'\n{"problem": "\xff"}\n')
    tasks, skipped = tasks_of({"source": "jsonl", "path": str(path)} | COLUMNS)
    assert len(tasks) == 2
    assert [s.place.rpartition(":")[2] for s in skipped] == ["2", "3", "5", "6", "8"]
    assert "not JSON" in skipped[0].reason
    assert "list" in skipped[1].reason
    assert "no column 'problem'" in skipped[2].reason


def test_a_csv_row_with_missing_cells_is_named(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('question,answer\n"a, b",1\nonly\nc,2\n')
    tasks, skipped = tasks_of({"source": "csv", "path": str(path)})
    assert [t.question for t in tasks] == ["a, b", "c"]
    assert skipped[0].place.endswith(":3")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.jsonl", b"", "give no question"),
        ("bad.parquet", b"PAR1", "not a sound Parquet"),
        ("empty.csv", b"", "empty"),
    ],
)
def test_files_without_tasks(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    config = Tasks(train=[{"source": name.rpartition(".")[2], "path": str(path)}])
    with pytest.raises(UserError, match=says):
        load_tasks(config, 0)


@pytest.mark.slow
def test_a_data_set_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="cannot load the data set 'no/such'"):
        tasks_of({"source": "hub", "dataset": "no/such"})


def test_an_unknown_generator_names_the_nearest():
    pytest.importorskip("reasoning_gym")
    with pytest.raises(UserError, match="did you mean 'chain_sum'"):
        tasks_of({"source": "reasoning_gym", "generator": "chainsum"})
    with pytest.raises(UserError, match="min_term"):
        tasks_of({"source": "reasoning_gym", "generator": "chain_sum", "options": {"min_term": 1}})


def test_reasoning_gym_draws_each_question_once():
    pytest.importorskip("reasoning_gym")
    options = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    entry = {"source": "reasoning_gym", "generator": "chain_sum", "size": 400, "options": options}
    sets = load_tasks(Tasks(train=[entry], holdout=20), 0)
    assert len({t.question for t in sets.train + sets.eval}) == len(sets.train) + len(sets.eval)
    assert len(sets.train) + len(sets.eval) + len(sets.skipped) == 400
    assert all("stand there before" in s.reason for s in sets.skipped)


numbers = st.integers(0, 30)
sums = st.lists(st.tuples(numbers, numbers), min_size=4, max_size=60)


@given(sums, st.integers(0, 5), st.floats(0.1, 0.9))
def test_no_evaluation_question_nor_reordering_is_in_training(pairs, seed, share):
    rows = [{"question": f"{a} + {b} =", "answer": a + b} for a, b in pairs]
    try:
        sets = load_tasks(Tasks(train=[{"source": "inline", "tasks": rows}], holdout=share), seed)
    except UserError as error:
        assert "holdout" in str(error) or "no question" in str(error)
        return
    keys = {
        tuple(sorted(t.question.replace("+", " ").replace("=", " ").split())) for t in sets.eval
    }
    assert not any(
        tuple(sorted(t.question.replace("+", " ").replace("=", " ").split())) in keys
        for t in sets.train
    )
    assert not {question_key(t.question) for t in sets.eval} & {
        question_key(t.question) for t in sets.train
    }


def test_appending_rows_moves_few_questions_across():
    rows = [{"question": f"question number {n} about {n * 7}", "answer": n} for n in range(300)]
    small = load_tasks(Tasks(train=[{"source": "inline", "tasks": rows}], holdout=50), 1)
    large = load_tasks(
        Tasks(
            train=[{"source": "inline", "tasks": [*rows, {"question": "a new one", "answer": 0}]}],
            holdout=50,
        ),
        1,
    )
    assert len({t.id for t in small.eval} - {t.id for t in large.eval}) <= 1


def test_with_eval_sources_of_their_own_shared_questions_leave_training():
    train = [{"question": f"{n} + 1", "answer": n} for n in range(5)]
    entry = {"source": "inline", "tasks": train}
    own = {"source": "inline", "name": "held", "tasks": [{"question": "1 + 3", "answer": 4}]}
    sets = load_tasks(Tasks(train=[entry], eval=[own]), 0)
    assert [t.question for t in sets.train] == ["0 + 1", "1 + 1", "2 + 1", "4 + 1"]
    assert "in the evaluation as held-" in sets.skipped[0].reason


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ('"answer": NaN', None), ('"answer": null', None), ('"answer": ""', None),
        ('"answer": "  "', None), ('"answer": 18.0', "18"), ('"answer": ["5"]', "5"),
        ('"answer": "NaN"', "NaN"), ('"answer": true', "True"), ('"other": 1', None),
    ],
)  # fmt: skip
def test_what_is_a_reference(tmp_path, row, answer):
    (tmp_path / "a.jsonl").write_text(f'{{"question": "q", {row}}}\n')
    (task,), skipped = tasks_of({"source": "jsonl", "path": str(tmp_path / "a.jsonl")})
    assert task.answer == answer and not skipped


def test_references_of_a_table_of_floats(tmp_path):
    table = pa.table({"question": ["a", "b"], "answer": [float("nan"), 18.0]})
    pq.write_table(table, tmp_path / "a.parquet")
    tasks, _ = tasks_of({"source": "parquet", "path": str(tmp_path / "a.parquet")})
    assert [task.answer for task in tasks] == [None, "18"]


@pytest.mark.parametrize("answer", [["5", "6"], {"value": 5}, []])
def test_a_reference_that_is_no_text_is_a_reason(answer):
    rows = [{"question": "q", "answer": answer}]
    tasks, (skipped,) = tasks_of({"source": "inline", "tasks": rows})
    assert not tasks
    assert "the reference in 'answer' is a" in skipped.reason and "answer: null" in skipped.reason
    assert tasks_of({"source": "inline", "tasks": rows, "answer": None})[0][0].answer is None


def test_nested_columns_and_one_used_twice():
    row = {"data": {"problem": "1 + 1?", "answer": "2", "kind": "sum"}, "a.b": 1, "a": {"b": 2}}
    columns = {"level": "a.b", "again": "data.problem", "same": "data.problem"}
    entry = {"question": "data.problem", "answer": "data.answer", "columns": columns}
    (task,), _ = tasks_of({"source": "inline", "tasks": [row]} | entry)
    assert (task.question, task.answer) == ("1 + 1?", "2")
    assert task.metadata == {
        "data": {"kind": "sum"}, "level": 1, "a": {"b": 2}, "again": "1 + 1?", "same": "1 + 1?",
    }  # fmt: skip
    entry["question"] = "data.problm"
    _, (skipped,) = tasks_of({"source": "inline", "tasks": [row]} | entry)
    assert "no column 'data.problm'" in skipped.reason


def test_an_answer_column_that_no_row_has_is_said_before_anything_is_asked():
    entry = {"source": "inline", "tasks": [{"question": "q", "answer": "1"}]}
    with pytest.raises(
        UserError, match=r"inline: answer: no row has the column 'anwser'; did you mean 'answer'"
    ):
        load_tasks(Tasks(train=[entry | {"answer": "anwser"}]), 0)
    mixed = [{"question": "a"}, {"question": "b", "gold": "1"}]
    tasks, _ = tasks_of({"source": "inline", "tasks": mixed, "answer": "gold"})
    assert [task.answer for task in tasks] == [None, "1"]
    assert tasks_of({"source": "inline", "tasks": [{"question": "a"}]})[0][0].answer is None


@pytest.mark.parametrize(
    "row",
    [
        {"question": "What is this?", "image": "a.png"},
        {"question": "<image>\nWhat is this?"},
        {"question": "What is this?", "images": [{"bytes": "..."}]},
    ],
)
def test_a_question_about_an_image_is_skipped(row):
    tasks, (skipped,) = tasks_of({"source": "inline", "tasks": [row]})
    assert not tasks and skipped.reason.startswith("no text alone: it needs what is in")
    used = row | {"question": "Describe the file name."}
    entry = {"source": "inline", "tasks": [used], "columns": {"image": "image"}}
    assert len(tasks_of(entry)[0]) == ("image" in row)


@pytest.mark.parametrize(
    ("source", "name", "says"),
    [
        ("jsonl", "nosuch.jsonl", "no such file"),
        ("jsonl", ".", "is a folder; name a file in it"),
        ("jsonl", "a.csv", "is no JSONL: `source: csv` reads it"),
        ("csv", "nosuch.csv", "no such file"),
        ("parquet", "nosuch", "no such file"),
    ],
)
def test_a_path_that_cannot_be_read(tmp_path, source, name, says):
    for there in ("such.jsonl", "a.csv"):
        (tmp_path / there).write_text("")
    with pytest.raises(ValueError, match=says):
        tasks_of({"source": source, "path": str(tmp_path / name)})


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    import datasets

    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "saved")
    entry = {"source": "hub", "dataset": str(tmp_path / "saved"), "split": "tset"} | COLUMNS
    with pytest.raises(UserError, match=r"no split 'tset'; did you mean 'test'\? it has test, tra"):
        tasks_of(entry)
    (tmp_path / "files").mkdir()
    write_jsonl(tmp_path / "files" / "train.jsonl", ROWS)
    with pytest.raises(UserError, match="no split 'validation'; known: train"):
        tasks_of(entry | {"dataset": str(tmp_path / "files"), "split": "validation"})


def test_a_json_array_and_utf_16_give_tasks(tmp_path):
    rows = [{"question": " \n  def f():", "answer": 1}]
    (tmp_path / "a.json").write_bytes(json.dumps(rows).encode("utf-16"))
    (task,), _ = tasks_of({"source": "jsonl", "path": str(tmp_path / "a.json")})
    assert task.question == " \n  def f():"


def test_a_row_nested_too_deeply_is_a_reason(tmp_path):
    deep = "[" * 150 + "]" * 150
    (tmp_path / "a.jsonl").write_text(f'{{"question": "q", "x": {deep}}}\n' * 2)
    tasks, skipped = tasks_of({"source": "jsonl", "path": str(tmp_path / "a.jsonl")})
    assert not tasks and {s.reason.split(":")[0] for s in skipped} == {"nested too deeply"}
