"""Input that is broken or means harm gives records, skipped rows with a reason, or a UserError."""

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from synth.core.dataset import writing
from synth.core.errors import UserError
from synth.core.readers import DEEPEST, Unreadable, json_value
from synth.core.record import Record, canonical_json
from synth.core.text.boxed import last_box
from synth.traces import file
from synth.traces._layouts.known import LAYOUTS
from synth.traces._load import Tally, Unique, records
from synth.traces.base import Row, Skipped, skip
from tests.helpers.trace_files import GOOD, arrow, lines, read, reasons


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
    assert [reason.split(":")[0] for reason in reasons(items)] == ["not JSON", *["no object"] * 4, "not UTF-8", "not JSON"]  # fmt: skip
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
    (tmp_path / "b.jsonl").write_bytes(json.dumps(GOOD).encode("utf-32"))
    with pytest.raises(UserError, match="written in UTF-32"):
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


@pytest.mark.parametrize("answer", ["NaN", "null", '""', '"  "', "Infinity"])
def test_a_missing_reference_is_none(tmp_path, answer):
    row = f'{{"prompt": "1 + 1?", "completion": "<think>a</think>2", "answer": {answer}}}'
    (item,) = lines(tmp_path, row.encode())
    assert item.task.answer is None


@pytest.mark.parametrize(("answer", "text"), [(4.0, "4"), (["5"], "5"), ("NaN", "NaN"), (7, "7")])
def test_a_reference_of_another_type(tmp_path, answer, text):
    (item,) = lines(tmp_path, {**GOOD, "answer": answer})
    assert item.task.answer == text


def test_turns_with_images_are_skipped_in_every_form(tmp_path):
    asked, trace = (
        {"role": "user", "content": "<image>\nWhat?"},
        {"role": "assistant", "content": "cat"},
    )
    part = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "x"}}]
    items = lines(
        tmp_path,
        {"messages": [{"role": "user", "content": part}, trace]},
        {"messages": [asked, trace]},
        {"messages": [{"role": "user", "content": "What?"}, trace], "images": ["a.png"]},
        {"messages": [{"role": "user", "content": "What?"}, trace], "images": []},
    )
    assert [reason.split(":")[0] for reason in reasons(items)] == ["a turn is not text"] * 3
    assert len(items) == 4


def test_nested_columns_by_dots_and_names_that_hold_a_dot(tmp_path):
    columns = {"question": "data.problem", "response": "output.0.text", "answer": "data.answer"}
    row = {"data": {"problem": "1 + 1?", "answer": 2.0, "level": 1}, "output": [{"text": "2"}]}
    named = {"data.problem": "2 + 2?", "output.0.text": "4", "data": {"answer": "4"}}
    first, second = lines(tmp_path, row, named, columns=columns)
    assert (first.task.question, first.answer, first.task.answer) == ("1 + 1?", "2", "2")
    assert first.task.metadata == {"data": {"level": 1}, "output": [{"text": "2"}]}
    assert (second.task.question, second.answer, second.task.answer) == ("2 + 2?", "4", "4")
    with pytest.raises(UserError, match=r"no column 'data.problm'"):
        lines(tmp_path, row, columns={**columns, "question": "data.problm"})


def test_calls_and_reasoning_of_earlier_turns_are_kept(tmp_path):
    calls = [{"id": "c1", "function": {"name": "w", "arguments": "{}"}}]
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "reasoning_content": "look", "content": "Wait.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "12C"},
        {"role": "assistant", "content": "12C.", "tool_calls": calls},
        {"role": "tool", "content": "13C"},
    ]
    (item,) = lines(tmp_path, {"messages": turns})
    text = json.dumps(calls, separators=(",", ":"))
    assert item.messages[1]["content"].startswith("<think>\nlook\n</think>\n\nWait.\n[{")
    assert item.answer.startswith("12C.\n[{") and len(item.answer) == len("12C.\n" + text)
    assert item.task.metadata["tool_calls"] == calls
    assert item.task.metadata["turns_after"] == [{"role": "tool", "content": "13C"}]
    tally = Tally()
    tally.add(item)
    assert str(tally) == "1 traces; in 1 the turns after the last answer are left out"


def test_parts_whose_text_stands_under_value(tmp_path):
    asked = {"role": "user", "content": [{"type": "text", "value": "hi"}], "loss_weight": 0.0}
    parts = [{"type": "reasoning", "value": "greet"}, {"type": "text", "value": "Hello!"}]
    call = [{"type": "tool_call", "value": "{}"}]
    good, bad = lines(
        tmp_path,
        {"messages": [asked, {"role": "assistant", "content": parts}]},
        {"messages": [asked, {"role": "assistant", "content": call}]},
    )
    assert (good.task.question, good.reasoning, good.answer) == ("hi", "greet", "Hello!")
    assert bad.reason == "a turn is not text: a part is tool_call"


def test_real_chats_of_parts_are_read(rows, tmp_path):
    chats = rows("chat-parts.jsonl")
    assert sum(isinstance(item, Record) for item in lines(tmp_path, *chats)) == len(chats)
