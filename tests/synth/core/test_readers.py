"""Every shape of a file gives its rows, or one reason; no row is made of a part of another."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth.core.errors import UserError
from synth.core.readers import (
    MAX_BYTES,
    cell_at,
    find_column,
    media_column,
    media_placeholder,
    read_rows,
    reference_text,
    without,
)

ROWS = [{"q": "a é", "n": 1}, {"q": "b\u2028", "n": None}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def read(folder, content, format, max_bytes=MAX_BYTES, **options):
    path = folder / "data"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = list(read_rows(path, format, max_bytes, **options))
    return [r.values for r in rows if r.values is not None], [r.error for r in rows if r.error]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readers")


@pytest.mark.parametrize("format", ["json", "jsonl"])
@pytest.mark.parametrize(
    "text",
    [
        LINES,
        LINES.replace("\n", "\r\n"),
        "\n \n" + LINES.replace("\n", "\n\n") + "  ",
        LINES.rstrip("\n"),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\n" + json.dumps(ROWS, indent=1) + "\n\n",
        json.dumps({"data": ROWS}),
        json.dumps({"version": "1", "questions": ROWS}, indent=2),
        json.dumps({"anything": ROWS}, indent=2),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_json_however_it_is_written(folder, text, format, encoding):
    assert read(folder, text.encode(encoding), format) == (ROWS, [])


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "q"}]},
        {"question": "q", "choices": [{"label": "A"}]},
        {"question": "q", "tools": [{"name": "f"}]},
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_one_object_that_is_a_row(folder, row, indent):
    assert read(folder, json.dumps(row, indent=indent), "json") == ([row], [])


def test_lists_a_line_are_no_rows(folder):
    values, errors = read(folder, '[1]\n[{"q": 1}]\n{"q": 2}\n', "jsonl")
    assert values == [{"q": 2}]
    assert errors == ["no object: this is a list"] * 2


def test_an_object_of_several_lists_says_which(folder):
    text = json.dumps({"train": ROWS, "test": ROWS[:1]}, indent=1)
    with pytest.raises(UserError, match=r"several lists: train \(2\), test \(1\)"):
        read(folder, text, "json")
    with pytest.raises(UserError, match="one JSON object of more than max_bytes"):
        read(folder, json.dumps({"data": ROWS * 50}, indent=1), "json", max_bytes=1024)


@pytest.mark.parametrize("format", ["jsonl", "json", "csv"])
def test_latin_1_has_its_reason_and_ascii_rows_are_read(folder, format):
    text = {"jsonl": '{"q": "a"}\n{"q": "é"}\n', "json": '[{"q": "a"}, {"q": "é"}]'}
    values, errors = read(folder, text.get(format, "q\na\né\n").encode("latin-1"), format)
    assert values == [{"q": "a"}]
    (error,) = errors
    assert error.startswith("not UTF-8: it has the byte 0xe9;") and "iconv -f latin1" in error


def test_broken_and_other_encodings(folder):
    with pytest.raises(UserError, match="written in UTF-32; save it as UTF-8"):
        read(folder, LINES.encode("utf-32"), "jsonl")
    with pytest.raises(UserError, match="not sound UTF-16"):
        read(folder, LINES.encode("utf-16")[:-1], "jsonl")


def test_a_folder_or_an_empty_file(folder):
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        list(read_rows(folder, "jsonl", MAX_BYTES))
    for format in ("jsonl", "json", "csv"):
        assert read(folder, b"", format) == ([], [])
        assert read(folder, gzip.compress(b""), format) == ([], [])


CELLS = st.text(st.sampled_from('ab,;"\n\r é'), max_size=12)
TABLES = st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=12)


@given(TABLES, st.sampled_from(["utf-8", "utf-16"]), st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=60)
def test_any_table_comes_back_as_the_standard_library_wrote_it(folder, table, encoding, end):
    text = io.StringIO()
    # With "\n" for its lines, the writer leaves a lone "\r" in a cell without quotes.
    quoting = csv.QUOTE_ALL if end == "\n" else csv.QUOTE_MINIMAL
    csv.writer(text, lineterminator=end, quoting=quoting).writerows([("x", "y", "z"), *table])
    values, errors = read(folder, text.getvalue().encode(encoding), "csv")
    assert [tuple(row.values()) for row in values] == table
    assert errors == []


@given(st.lists(st.tuples(CELLS, st.booleans()), max_size=8), st.text('ab"\n,\r', max_size=60))
@settings(max_examples=60)
def test_a_row_over_the_limit_is_skipped_whole(folder, rows, filling):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["x", "y"])
    for cell, long in rows:
        writer.writerow([cell, (filling + "a") * 200 if long else "b"])
    values, errors = read(folder, text.getvalue(), "csv", max_bytes=100)
    assert [row["x"] for row in values] == [cell for cell, long in rows if not long]
    assert errors == ["too long: more than max_bytes, 100"] * sum(long for _, long in rows)


def test_a_long_cell_between_lines_that_look_like_rows(folder):
    long = "x" * 3000 + "\nsecond,line\n" + "third,line\n" * 400
    text = f'q,a\n1,2\n"{long}",7\n3,4\n'
    assert read(folder, text, "csv", max_bytes=1024) == (
        [{"q": "1", "a": "2"}, {"q": "3", "a": "4"}],
        ["too long: more than max_bytes, 1,024"],
    )
    values, errors = read(folder, text, "csv")
    assert (values[1], errors) == ({"q": long, "a": "7"}, [])


def test_csv_whose_reader_another_program_has_bounded(folder):
    before = csv.field_size_limit(10)
    try:
        assert read(folder, f"q\n{'x' * 200_000}\n", "csv")[0] == [{"q": "x" * 200_000}]
    finally:
        csv.field_size_limit(before)


def test_missing_cells_of_csv_and_other_delimiters(folder):
    values, _ = read(folder, "q;a\n1;nan\n2;\n3;NULL\n4;None\n", "csv", delimiter=";")
    assert [row["a"] for row in values] == [None, "", None, "None"]
    values, _ = read(folder, "q\ta\n1\tx,y\n", "tsv")
    assert values == [{"q": "1", "a": "x,y"}]


def test_a_name_that_stands_twice(folder):
    with pytest.raises(UserError, match="two columns have the same name, 'q'"):
        read(folder, "q,a,q\n1,2,3\n", "csv")
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["q", "q"])
    pq.write_table(table, folder / "twice.parquet")
    with pytest.raises(UserError, match="two columns have the same name, 'q'"):
        list(read_rows(folder / "twice.parquet", "parquet", MAX_BYTES))


def test_a_quote_that_never_closes_is_one_reason(folder):
    assert read(folder, 'q,a\n1,2\n"3,4\n5,6\n', "csv") == (
        [{"q": "1", "a": "2"}],
        ["not CSV: a quote opens and does not close until line 4, the last"],
    )


@given(st.binary(max_size=300), st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet"]))
def test_any_bytes_give_rows_or_reasons(folder, content, format):
    try:
        values, errors = read(folder, content, format, max_bytes=64)
    except UserError as error:
        assert str(folder / "data") in str(error)
    else:
        assert all(type(row) is dict for row in values)
        assert all(errors)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, None), ("", None), (" \n", None), (float("nan"), None), (float("inf"), None),
        (18.0, "18"), (18, "18"), (1.5, "1.5"), (1e300, "1e+300"), (-0.0, "0"), (True, "True"),
        ("NaN", "NaN"), ("nan", "nan"), (" 7", " 7"), (["5"], "5"), ([None], None), ([4.0], "4"),
    ],
)  # fmt: skip
def test_references(cell, text):
    assert reference_text(cell) == text


names = st.text("ab.", min_size=1, max_size=5)
trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(names, inner) | st.lists(inner), max_leaves=6
)


@given(st.dictionaries(names, trees, max_size=4), names)
def test_a_column_that_is_found_is_there_and_can_be_taken_away(row, name):
    path = find_column(row, name)
    assert (name not in row) or path == (name,)
    if path is None:
        assert not any(name.startswith(f"{key}.{inner}") and name == f"{key}.{inner}"
                       for key, value in row.items() if isinstance(value, dict) for inner in value)  # fmt: skip
        return
    assert ".".join(map(str, path)) == name
    cell_at(row, path)
    rest = without(row, path)
    if not any(isinstance(step, int) for step in path):
        with pytest.raises(KeyError):
            cell_at(rest, path)


@pytest.mark.parametrize("value", ["a.png", ["a.png"], b"\x89PNG", {"bytes": b"x"}, [None, "a"]])
def test_media_that_is_there(value):
    assert media_column({"q": "x", "Images": value}) == "Images"


@pytest.mark.parametrize("value", [None, "", [], {}, float("nan"), [None], [""]])
def test_media_that_is_not_there(value):
    assert media_column({"image": value, "image_id": 7}) is None


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("<image>\nWhat?", "<image>"),
        ("<image>What?", "<image>"),
        ("What?\n<image>", "<image>"),
        ("<|vision_start|><|image_pad|><|vision_end|>What?", "<|image_pad|>"),
        ("What does the tag <image> do?", None),
        ("<image>\n<href>a</href>\n</image>\nIs this sound?", None),
        ("a < b", None),
    ],
)
def test_placeholders(text, mark):
    assert media_placeholder(text) == mark
