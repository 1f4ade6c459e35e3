"""Input that is broken or means harm gives records, skipped rows with a reason, or a UserError."""

import gzip
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from synth.core.boxed import last_box
from synth.core.dataset import _clean, record_schema, writing
from synth.core.errors import UserError
from synth.core.record import Record, canonical_json, to_row
from synth.traces import file
from synth.traces._layouts.json_values import DEEPEST, Unreadable, json_value
from synth.traces._layouts.known import LAYOUTS
from synth.traces._load import Tally, Unique, read_traces, records
from synth.traces.base import Row, Skipped, skip

GOOD = {"prompt": "Q?", "completion": "<think>t</think>a"}


def read(path, **config):
    made = file.Config(path=str(path), **config)
    return list(records(file.build(made), made, "name", lambda _: None, Unique()))


def lines(tmp_path, *given, name="a.jsonl", **config):
    """What lines of a file give; a line is a row or bytes."""
    path = tmp_path / name
    path.write_bytes(b"".join((g if isinstance(g, bytes) else json.dumps(g).encode()) + b"\n" for g in given))  # fmt: skip
    return read(path, **config)


def reasons(items):
    return [item.reason for item in items if isinstance(item, Skipped)]


def arrow(items):
    """Writes records as the stage does; raises where Parquet cannot hold one."""
    rows = [_clean(to_row(item)) for item in items if isinstance(item, Record)]
    for row in rows:
        canonical_json(row).encode()
    pa.Table.from_pylist(rows, schema=record_schema())


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "no question: its column is missing or empty"),
        ({"prompt": "Q?"}, "no response: its column is missing or empty"),
        ({"prompt": "Q?", "completion": None}, "no response: its column is missing or empty"),
        ({"prompt": "Q?", "completion": "  \n"}, "no response: it is empty"),
        ({"prompt": "Q?", "completion": {"a": 1}}, "no response: it is an object"),
        ({"prompt": "Q?", "completion": True}, "no response: it is a truth value"),
        ({"prompt": "Q?", "completion": []}, "no response: its column is missing or empty"),
        ({"prompt": "", "completion": "a"}, "no question: it is empty"),
        ({"prompt": 7, "completion": "a"}, "no question: it is a number"),
        ({"prompt": [], "completion": "a"}, "no messages: an empty list, not a list of turns"),
        ({"prompt": ["Q?"], "completion": "a"}, "no messages: a turn is text"),
        ({"prompt": {"role": "user"}, "completion": "a"}, "no messages: an object, not a list of turns"),
        ({"prompt": {"role": ["user"], "content": []}, "completion": "a"}, "no messages: lists of different lengths"),
        ({"prompt": [{"role": "wizard", "content": "x"}], "completion": "a"}, "unknown role: wizard"),
        ({"prompt": [{"content": "x"}], "completion": "a"}, "unknown role: empty"),
        ({"prompt": [{"role": "user", "content": None}], "completion": "a"}, "a turn has no text: it is empty"),
        ({"prompt": [{"role": "user", "content": 5}], "completion": "a"}, "a turn has no text: it is a number"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "completion": "a"},
            "a turn is not text: a part is image_url",
        ),
        ({"prompt": [{"role": "assistant", "content": "x"}], "completion": "a"}, "no question: no user's turn"),
        ({"prompt": "Q?", "completion": [{"role": "user", "content": "x"}]}, "no response: no assistant's turn"),
        ({"prompt": "Q?", "completion": "a", "reasoning": [1, 2]}, "no reasoning: its list holds something that is not text"),
    ],
)  # fmt: skip
def test_a_row_that_gives_no_record_says_why(tmp_path, row, reason):
    items = lines(tmp_path, GOOD, row)
    assert reasons(items) == [reason]
    assert items[1].place == f"{tmp_path}/a.jsonl:2"
    assert isinstance(items[0], Record)


def test_one_sample_of_several_can_be_bad(tmp_path):
    items = lines(tmp_path, {"prompt": "Q?", "completions": ["a", None, "", "b"]})
    assert [type(item) for item in items] == [Record, Skipped, Skipped, Record]
    assert items[1].reason == "no response: it is empty (sample 1)"
    assert [item.generation.sample for item in items if isinstance(item, Record)] == [0, 3]


def test_a_column_of_another_type_in_the_thousandth_row(tmp_path):
    items = lines(tmp_path, *[GOOD] * 999, {**GOOD, "prompt": ["x"]}, *[GOOD] * 5)
    assert [(s.place, s.reason) for s in items if isinstance(s, Skipped)] == [
        (f"{tmp_path}/a.jsonl:1000", "no messages: a turn is text")
    ]
    assert len(items) == 1005


def test_lines_that_are_not_rows(tmp_path):
    bad = [
        b"{broken",
        b"[1, 2]",
        b"7",
        b"null",
        b'"text"',
        b'{"prompt": "\xff", "completion": "a"}',
        b"\x00\x00",
    ]
    items = lines(tmp_path, GOOD, *bad, b"", b"   ", GOOD)
    assert [reason.split(":")[0] for reason in reasons(items)] == ["not JSON", *["no object"] * 4, *["not JSON"] * 2]  # fmt: skip
    assert [item.place.rpartition(":")[2] for item in items if isinstance(item, Skipped)] == list(
        "2345678"
    )
    assert sum(isinstance(item, Record) for item in items) == 2


def test_texts_are_kept_as_they_are(tmp_path):
    texts = [
        "a\x00b",
        "\ud800 lone",
        "\u202eright to left",
        "a\u2028b",
        "\x1b[31mred",
        "</think>",
        "e\u0301",
    ]
    items = lines(
        tmp_path,
        *({"prompt": text, "completion": f"<think>{text}</think>x{text}"} for text in texts),
    )
    assert [item.task.question for item in items] == texts
    arrow(items)


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    body = b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n" + json.dumps(GOOD).encode()
    (tmp_path / "a.jsonl").write_bytes(body)
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfprompt,completion\r\nQ?,a\r\n")
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf\r\n[" + json.dumps(GOOD).encode() + b"]\r\n")
    for name, number in (("a.jsonl", 2), ("a.csv", 1), ("a.json", 1)):
        items = read(tmp_path / name)
        assert [item.task.question for item in items] == ["Q?"] * number
    (tmp_path / "b.jsonl").write_bytes(json.dumps(GOOD).encode("utf-16"))
    with pytest.raises(UserError, match="written in UTF-16"):
        read(tmp_path / "b.jsonl")


def test_numbers_that_json_does_not_have(tmp_path):
    row = b'{"prompt": "Q?", "completion": "a", "x": NaN, "y": [Infinity, 1e999], "z": %d, "z": 2}'
    items = lines(
        tmp_path,
        row % 10**40,
        row.replace(b"%d", b"9" * 5000),
        {**GOOD, "completion_tokens": 2**70},
    )
    assert items[0].task.metadata == {"x": None, "y": [None, None], "z": 2}
    assert items[1].reason.startswith("not JSON")
    assert items[2].generation is None
    arrow(items)


def test_depth_bombs(tmp_path):
    deep = {
        DEEPEST - 1: True,
        DEEPEST: True,
        DEEPEST + 1: False,
        150: False,
        900: False,
        100_000: False,
    }
    rows = [b'{"prompt": "Q?", "completion": "a", "x": ' + b"[" * n + b"]" * n + b"}" for n in deep]
    items = lines(tmp_path, *rows)
    assert [isinstance(item, Record) for item in items] == list(deep.values())
    arrow(items)
    (tmp_path / "a.json").write_bytes(b"[" * 100_000)
    with pytest.raises(UserError, match="item 1 is nested too deeply"):
        read(tmp_path / "a.json")


def test_hostile_texts_take_no_time(tmp_path):
    texts = [
        "<think>" * 100_000,
        "</think>" * 100_000,
        "<think></think>" * 50_000,
        "\\boxed{" * 100_000,
        "\\boxed{1}" * 10_000,
        "{" * 1_000_000,
        "<" * 1_000_000,
        "<|begin_of_thought|>" * 50_000,
        " " * 1_000_000 + "x",
    ]
    rows = [{"prompt": text, "completion": text, "solution": text + "."} for text in texts]
    start = time.perf_counter()
    items = lines(tmp_path, *rows)
    assert len(items) == len(rows)
    assert time.perf_counter() - start < 20
    assert last_box("\\boxed{1}" * 10_000) == "1"


def test_nested_tags_and_tags_in_the_answer_stay_for_the_filters(tmp_path):
    nested = {"prompt": "Q?", "completion": "<think>a<think>b</think>c</think>d"}
    later = {"prompt": "Q?", "completion": "<think>a</think>b<think>c</think>"}
    items = lines(tmp_path, nested, later)
    assert [(item.reasoning, item.answer) for item in items] == [
        ("a<think>b", "c</think>d"),
        ("a", "b<think>c</think>"),
    ]


# --- files ----------------------------------------------------------------------------------------


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
    assert reasons(items)[0] == "not CSV: 1 cells where the header has 2"
    many = '"a\n",' * 3000
    path.write_text(f"prompt,completion\n{many}\n")
    with pytest.raises(UserError, match="a row without end"):
        read(path, max_bytes=2000)


def test_names_of_files_and_columns_cannot_steer_a_terminal(tmp_path):
    said = []
    config = file.Config(path="x")
    row = {"prompt": "Q?", "completion": "a", "\x1b[2J\ud800": 1}
    list(records(iter([Row("p", row)]), config, "n\x1b", said.append, Unique()))
    assert "\x1b" not in said[0]
    said[0].encode()
    skipped = skip("place\ud800\n", "why: \x1b" + "y" * 1000)
    skipped.place.encode()
    assert len(skipped.reason) == 200


def test_a_tally_counts_by_kind_and_shows_a_few():
    tally = Tally()
    for n in range(1000):
        tally.add(skip(f"f:{n}", f"not JSON: at {n}"))
    tally.add(skip("f:1000", "too long"))
    assert (
        str(tally)
        == "0 traces; skipped 1,001: not JSON 1,000 (first f:0), too long 1 (first f:1000)"
    )
    assert len(tally.to_dict()["examples"]["not JSON"]) == 5
    json.dumps(tally.to_dict())


def test_ids_are_unique_also_where_the_table_is_full(monkeypatch):
    monkeypatch.setattr(Unique, "_BITS", 4096)
    unique = Unique()
    given = [f"id-{n % 300}" for n in range(1500)]
    names = [unique.name(id) for id in given]
    assert len(set(names)) == 1500
    again = Unique()
    assert [again.name(id) for id in given] == names


# --- anything at all ------------------------------------------------------------------------------

texts = st.text(st.characters(), max_size=20) | st.sampled_from(
    ["<think>a</think>b", "\\boxed{1}", "user", "assistant", "human", "gpt", "\ud800", "\x00", ""]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
columns = {c for layout in LAYOUTS for found in layout.roles([]).values() for c in found}
keys = {"role", "content", "from", "value", "tool_calls", "task", "id", "verdicts"}
names = st.sampled_from(sorted(columns | keys))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | texts, inner, max_size=5),
    max_leaves=20,
)
turn_lists = st.lists(
    st.fixed_dictionaries({"role": texts, "content": values}, optional={"reasoning": values}),
    max_size=4,
)
table_rows = st.dictionaries(names | texts, values | turn_lists, max_size=8)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(table_rows, min_size=1, max_size=4), st.sampled_from(LAYOUTS))
@example([{"task": {"question": 1, "metadata": "{"}, "messages": 3}], LAYOUTS[0])
def test_any_rows_give_records_or_reasons_and_never_raise(rows, layout):
    given = [Row(f"p:{n}", row) for n, row in enumerate(rows)]
    for name in ("auto", layout.name):
        config = file.Config(path="x", layout=name)
        try:
            items = list(records(iter(given), config, "name", lambda _: None, Unique()))
        except UserError as error:
            assert "layout" in str(error)
            continue
        assert all(isinstance(item, Record | Skipped) for item in items)
        for item in items:
            if isinstance(item, Skipped):
                assert item.reason
                item.reason.encode()
        arrow(items)
        found = [item.id for item in items if isinstance(item, Record)]
        assert len(set(found)) == len(found)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=400) | st.lists(values, max_size=5).map(lambda v: json.dumps(v).encode()),
       name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz"]))  # fmt: skip
def test_any_bytes_as_a_file_end_in_rows_or_a_user_error(tmp_path_factory, content, name):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    try:
        for row in file.build(file.Config(path=str(path))):
            assert row.values is None or isinstance(row.values, dict)
    except UserError as error:
        assert name in str(error)


@given(values)
def test_any_value_can_be_kept_as_json(value):
    try:
        kept = json_value(value)
    except Unreadable:
        return
    assert json.loads(canonical_json(kept)) == kept


def test_hostile_rows_can_be_written_as_a_data_set(tmp_path):
    items = lines(
        tmp_path, *[{"prompt": c, "completion": c} for c in ("\ud800", "\x00", "\uffff", "\u202e")]
    )
    with writing(tmp_path / "set", ["train"]) as (splits, _):
        for item in items:
            splits["train"].write(item)
    assert len(read(tmp_path / "set")) == 4
