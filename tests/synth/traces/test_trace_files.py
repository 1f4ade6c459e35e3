"""Formats, compression, folders, globs, runs of ours, and the library datasets."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from synth.core.dataset import writing
from synth.core.errors import UserError
from synth.core.record import Record
from synth.traces import file, hub
from synth.traces._load import Unique, records
from synth.traces.base import TraceConfig

ROWS = [
    {"problem": f"What is {n} + {n}?", "generated_solution": f"<think>é{n}\nso</think>{2 * n}", "expected_answer": str(2 * n)}
    for n in range(40)
]  # fmt: skip
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def read(module, **config):
    made = module.Config(**config)
    assert isinstance(made, TraceConfig)
    said = []
    return list(records(module.build(made), made, "name", said.append, Unique())), said


def write(path):
    """The rows in the format that the path's name says."""
    name, data = path.name, None
    if ".jsonl" in name or ".ndjson" in name:
        data = LINES
    elif ".json" in name:
        data = json.dumps(ROWS, indent=2).encode()
    elif ".csv" in name or ".tsv" in name:
        with path.open("w", newline="", encoding="utf-8") as text:
            delimiter = "\t" if ".tsv" in name else ","
            writer = csv.DictWriter(text, list(ROWS[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
        data = path.read_bytes()
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=7)
        return
    packed = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)(data)
    path.write_bytes(packed)


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.jsonl.zst", "a.json", "a.json.gz", "a.csv", "a.csv.zst", "a.tsv", "a.parquet"],
)  # fmt: skip
def test_every_format_gives_the_same_records(tmp_path, name):
    write(tmp_path / name)
    items, _ = read(file, path=str(tmp_path / name))
    assert [(r.task.question, r.reasoning, r.answer, r.task.answer) for r in items] == [
        (row["problem"], f"é{n}\nso", str(2 * n), str(2 * n)) for n, row in enumerate(ROWS)
    ]
    write(tmp_path / "b.jsonl")
    again, _ = read(file, path=str(tmp_path / "b.jsonl"))
    assert [r.id for r in items] == [r.id for r in again]


def test_a_json_file_of_lines_and_an_array_in_small_pieces(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_bytes(LINES)
    assert len(read(file, path=str(tmp_path / "a.json"))[0]) == 40
    write(tmp_path / "b.json")
    monkeypatch.setattr("synth.core._readers.json_rows.CHUNK", 7)
    assert len(read(file, path=str(tmp_path / "b.json"))[0]) == 40


def test_a_folder_and_a_glob_in_the_order_of_names(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", ".hidden.jsonl", "_tmp/d.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"prompt": name, "completion": "x"}) + "\n")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "dataset_info.json").write_text("{}")
    items, _ = read(file, path=str(tmp_path))
    assert [r.task.question for r in items] == ["a.jsonl", "b.jsonl", "deep/c.jsonl"]
    items, _ = read(file, path=f"{tmp_path}/**/c*.jsonl")
    assert [r.task.question for r in items] == ["deep/c.jsonl"]


def test_several_formats_in_a_folder_are_not_read_twice(tmp_path):
    write(tmp_path / "a.jsonl")
    write(tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=r"several formats: jsonl \(a.jsonl\), parquet \(a.parquet\)"
    ):
        read(file, path=str(tmp_path))
    assert len(read(file, path=f"{tmp_path}/*.parquet")[0]) == 40
    assert len(read(file, path=str(tmp_path), format="jsonl")[0]) > 0


def test_what_is_not_there_or_not_known_is_said(tmp_path):
    with pytest.raises(UserError, match=r"no data file in this folder; known: \.jsonl"):
        read(file, path=str(tmp_path))
    write(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"no such file; did you mean 'a.jsonl'"):
        read(file, path=str(tmp_path / "b.jsonl"))
    with pytest.raises(UserError, match="no file fits"):
        read(file, path=f"{tmp_path}/*.csv")
    (tmp_path / "a.arrow").write_bytes(b"ARROW1")
    with pytest.raises(UserError, match="the source `hub` reads"):
        read(file, path=str(tmp_path / "a.arrow"))
    (tmp_path / "data").write_bytes(LINES)
    assert len(read(file, path=str(tmp_path / "data"), format="jsonl")[0]) == 40


def test_a_run_of_ours_by_its_folder_its_stage_and_its_split(tmp_path):
    write(tmp_path / "a.jsonl")
    made = read(file, path=str(tmp_path / "a.jsonl"))[0]
    run = tmp_path / "run"
    with writing(run / "generate", ["train"]) as (splits, _):
        for record in made[:9]:
            splits["train"].write(record)
    with writing(run / "filter", ["kept", "rejected"]) as (splits, _):
        for record in made[:9]:
            splits["kept" if record.answer < "5" else "rejected"].write(record)
    items, said = read(file, path=str(run))
    assert "layout records" in said[0]
    assert items == made[:9]
    kept, _ = read(file, path=str(run / "filter"))
    rejected, _ = read(file, path=str(run / "filter"), split="rejected")
    assert {r.id for r in kept} | {r.id for r in rejected} == {r.id for r in made[:9]}
    shard = next((run / "filter" / "data").glob("kept*"))
    assert read(file, path=str(shard))[0] == kept
    with pytest.raises(UserError, match="no split 'keep'; did you mean 'kept'"):
        read(file, path=str(run / "filter"), split="keep")


def test_inputs_change_with_the_files(tmp_path):
    write(tmp_path / "a.jsonl")
    config = file.Config(path=str(tmp_path / "a.jsonl"))
    before = file.inputs(config)
    assert list(before) == [str(tmp_path / "a.jsonl")]
    (tmp_path / "a.jsonl").write_bytes(LINES * 2)
    assert file.inputs(config) != before


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_the_library_datasets_reads_by_name(tmp_path, monkeypatch, streaming):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.parquet")
    items, said = read(hub, dataset=str(tmp_path / "set"), streaming=streaming)
    assert "layout openmathreasoning" in said[0]
    assert [r.answer for r in items] == [str(2 * n) for n in range(40)]
    with pytest.raises(UserError, match="data set 'no/such'"):
        read(hub, dataset="no/such", streaming=streaming)


def test_a_folder_that_save_to_disk_wrote(tmp_path):
    import datasets

    chats = [{"messages": [{"role": "user", "content": r["problem"]}, {"role": "assistant", "content": r["generated_solution"]}]} for r in ROWS]  # fmt: skip
    datasets.Dataset.from_list(chats).save_to_disk(tmp_path / "saved")
    items, _ = read(hub, dataset=str(tmp_path / "saved"))
    assert all(isinstance(item, Record) for item in items)
    assert [r.answer for r in items] == [str(2 * n) for n in range(40)]
