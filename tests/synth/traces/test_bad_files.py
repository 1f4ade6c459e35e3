"""Files that are too long, cut short or not what they say give skipped rows or a UserError."""

import gzip
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from synth.core.errors import UserError
from synth.core.record import Record
from synth.traces import file
from synth.traces._load import Unique, read_traces, records
from tests.helpers.trace_files import GOOD, arrow, lines, read, reasons


def test_long_lines_are_skipped_and_the_rest_is_read(tmp_path):
    long = {**GOOD, "x": "y" * 5000}
    items = lines(tmp_path, GOOD, long, GOOD, long, max_bytes=2000)
    assert [isinstance(item, Record) for item in items] == [True, False, True, False]
    assert items[1].reason == "too long: more than max_bytes, 2,000"
    assert items[3].place.endswith(":4")
    (tmp_path / "a.csv").write_text(f"prompt,completion\nQ?,a\nQ?,{'y' * 5000}\nQ?,b\n")
    items = read(tmp_path / "a.csv", max_bytes=2000)
    assert [isinstance(item, Record) for item in items] == [True, False, True]
    pq.write_table(pa.Table.from_pylist([{**GOOD, "x": ""}, long]), tmp_path / "a.parquet")
    items = read(tmp_path / "a.parquet", max_bytes=2000)
    assert [isinstance(item, Record) for item in items] == [True, False]
    (tmp_path / "a.json").write_text(json.dumps([GOOD, long, GOOD]))
    items = read(tmp_path / "a.json", max_bytes=2000)
    assert [isinstance(item, Record) for item in items] == [True, False, True]
    (tmp_path / "a.json").write_text(json.dumps([GOOD, {**GOOD, "x": "y" * 5_000_000}]))
    with pytest.raises(UserError, match="item 2 does not end in max_bytes"):
        read(tmp_path / "a.json", max_bytes=2_000_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv"])
def test_a_line_of_200_mb_without_end_takes_no_memory(tmp_path, name):
    """In a process of its own, whose memory is bounded by what reading a short file takes."""
    path = tmp_path / name
    pack = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rpartition(".")[2], bytes)
    path.write_bytes(pack(b'"' * (200 * 2**20)))
    code = f"""
from pathlib import Path
from synth.traces import file
import pyarrow.parquet, pydantic_core
def peak():  # getrusage would begin with the peak of the tests' own process
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
rows = list(file.build(file.Config(path={str(path)!r}, max_bytes=2**20)))
print(len(rows), (peak() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    number, mb = map(int, done.stdout.split())
    assert number == 1
    assert mb < 40


def peak_kb():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("w") as out:
        for n in range(20_000):
            out.write(json.dumps({"prompt": f"Q{n}?", "completion": "word " * 500}) + "\n")
    config = file.Config(path=str(path))
    found = records(file.build(config), config, "name", lambda _: None, Unique())
    assert sum(1 for _ in itertools.islice(found, 2_000)) == 2_000
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_kb()
    assert sum(1 for _ in found) == 18_000
    assert peak_kb() - before < 20 * 1024


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.json", "a.parquet"])
def test_a_file_that_is_cut_short_is_named(tmp_path, name):
    path = tmp_path / name
    rows = [{"prompt": f"Q{n}?", "completion": "w" * (n % 97)} for n in range(3000)]
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        data = "\n".join(map(json.dumps, rows)) if "jsonl" in name else json.dumps(rows)
        pack = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rpartition(".")[2], bytes)
        path.write_bytes(pack(data.encode()))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=name):
        read(path)


def test_parquet_that_lies_in_its_pages(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"prompt": f"Q{n}?", "completion": f"answer {n}"} for n in range(2000)]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    whole = bytearray(path.read_bytes())
    for at in range(4, len(whole) - 300, 37):
        whole[at] ^= 0xFF
    path.write_bytes(bytes(whole))
    with pytest.raises(UserError, match="not a sound Parquet file"):
        read(path)


def test_shards_of_another_schema_give_a_reason_a_row(tmp_path):
    pq.write_table(pa.Table.from_pylist([GOOD] * 3), tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist([{"other": 1}] * 2), tmp_path / "b.parquet")
    pq.write_table(pa.table({"prompt": [1], "completion": [2.5]}), tmp_path / "c.parquet")
    items = read(tmp_path)
    assert sum(isinstance(item, Record) for item in items) == 3
    assert reasons(items) == ["no question: its column is missing or empty"] * 2 + [
        "no question: it is a number"
    ]
    assert items[3].place == f"{tmp_path}/b.parquet:1"


def test_values_that_json_does_not_have(tmp_path):
    import datetime
    import decimal

    row = {
        **GOOD, "when": datetime.datetime(2025, 1, 2), "raw": b"\xff\x00", "much": decimal.Decimal("1.50"),
        "share": float("nan"),
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    (item,) = read(tmp_path)
    assert item.task.metadata == {"when": "2025-01-02 00:00:00", "raw": "\ufffd\x00", "much": "1.50", "share": None}  # fmt: skip
    arrow([item])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b"", "no trace in it"),
        ("a.jsonl", b"\n\n", "no trace in it"),
        ("a.jsonl", b"{bad\n" * 5000, "skipped 5,000: not JSON 5,000"),
        ("a.json", b"[]", "no trace in it"),
        ("a.json", b"[", "cut short"),
        ("a.json", b'[{"prompt": "Q?", "completion": "a"}] []', "follows the end of the array"),
        (
            "a.json",
            b'[{"prompt": "Q?", "completion": "a"} {bad]',
            "item 2 is cut short or not JSON",
        ),
        ("a.csv", b"", "no trace in it"),
        ("a.csv", b"prompt,prompt\na,b\n", "the same name"),
        ("a.parquet", b"", "not a sound Parquet"),
        ("a.parquet", b"PAR1PAR1", "not a sound Parquet"),
        ("a.jsonl.gz", b"\x1f\x8b\x08broken", "cannot be read"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfdbroken", "cannot be read"),
    ],
)
def test_files_without_a_trace_are_the_users_mistake(tmp_path, monkeypatch, name, content, says):
    from synth.core import plugins

    monkeypatch.setitem(plugins.PACKAGES, "trace source", "synth.traces")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        list(read_traces([{"source": "file", "path": str(tmp_path / name)}], lambda _: None))


def test_csv_with_stray_quotes_and_long_cells(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f'prompt,completion\nQ?,{"w" * 300_000}\nQ?,"a"b\nQ?\nQ?,"never closed\nQ?,a\n')
    items = read(path)
    assert len(items[0].answer) == 300_000
    assert reasons(items) == [
        "not CSV: 1 cells where the header has 2",
        "not CSV: a quote opens and does not close until line 6, the last",
    ]
    many = '"a\n",' * 3000
    path.write_text(f"prompt,completion\n{many}\nQ?,a\n")
    items = read(path, max_bytes=2000)
    assert reasons(items) == ["too long: more than max_bytes, 2,000"]
    assert len(items) == 2
    path.write_text(f"prompt,completion\n{many * 200}\n")
    with pytest.raises(UserError, match="a row without end"):
        read(path, max_bytes=2000)
