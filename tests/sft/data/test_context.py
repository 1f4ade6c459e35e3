"""What a training would leave out of a conversation is found, and nothing else is taken for it."""

import json

import pytest

from sft.data.context import LeftOut, left_out
from synth.core.errors import UserError
from synth.core.prompts import load_prompt, parse_prompt
from synth.core.record import Generation, Message, Record, Task
from synth.traces._layouts.convert import converter
from synth.traces._layouts.known import choose_layout

PLAIN = load_prompt("plain")
SYSTEM = parse_prompt(
    "mine",
    "---\ndescription: d\nversion: 1\nvariables: {question: q}\n---\n"
    "{% call system() %}Answer in French.{% endcall %}{% call user() %}{{ question }}{% endcall %}",
)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
ASKED = {"role": "user", "content": "1 + 1?"}
TRACE = {"role": "assistant", "content": "<think>a</think>2"}
CALL = {"function": {"name": "weather", "arguments": "{}"}}


def imported(row):
    layout = choose_layout("auto", {}, [row])
    (record,) = converter(layout, [row], "data")(row)
    return record


def lost(row, prompt=PLAIN):
    record = imported(row)
    return left_out(record, prompt.messages(record.task, {}))


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        ({"messages": [{"role": "system", "content": "S"}, ASKED, TRACE]}, ["a system prompt"]),
        ({"system": "S", "conversations": [ASKED, TRACE]}, ["a system prompt"]),
        ({"instruction": "Q", "output": "A", "system": "S"}, ["a system prompt"]),
        ({"messages": [ASKED, TRACE, ASKED, TRACE]}, ["earlier turns"]),
        ({"prompt": [ASKED, TRACE, ASKED], "completion": "A"}, ["earlier turns"]),
        ({"instruction": "Q", "output": "A", "history": [["Q0", "A0"]]}, ["earlier turns"]),
        ({"messages": [ASKED, TRACE], "tools": TOOLS}, ["tools"]),
        ({"messages": [ASKED, TRACE], "tools": json.dumps(TOOLS)}, ["tools"]),
        (
            {"messages": [ASKED, {"role": "assistant", "content": "Wait.", "tool_calls": [CALL]}]},
            ["calls of tools"],
        ),
        (
            {"conversations": [ASKED, {"from": "function_call", "value": '{"name": "f"}'}]},
            ["calls of tools"],
        ),
        (
            {
                "messages": [
                    ASKED,
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "content": "5C"},
                    TRACE,
                ]
            },
            ["earlier turns", "results of tools"],
        ),
    ],
)
def test_each_kind_is_found(row, kinds):
    assert lost(row) == kinds


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED, TRACE]},
        {"question": "1 + 1?", "response": "2", "system": ""},
        {"instruction": "Q", "input": "more", "output": "A", "history": []},
        {"messages": [ASKED, TRACE], "tools": "[]"},
        {"messages": [ASKED, TRACE], "tools": ["hammer", "saw"]},
        {"messages": [ASKED, TRACE], "tools": None},
        {"messages": [ASKED, {"role": "assistant", "content": "2", "tool_calls": []}]},
    ],
)
def test_a_single_question_loses_nothing(row):
    assert lost(row) == []


def test_a_system_prompt_that_the_students_prompt_says_is_not_lost():
    row = {"system": "Answer in French.", "conversations": [ASKED, TRACE]}
    assert lost(row, SYSTEM) == []
    assert lost({**row, "system": "Answer in Dutch."}, SYSTEM) == ["a system prompt"]


def test_what_a_teachers_own_prompt_showed_is_left_out_on_purpose():
    generation = Generation("t", "m", "boxed_examples.en", "h", {}, 0, "stop", 1, 1, None, 0.0, "k")
    turns = [Message(role="system", content="S"), Message(**ASKED)]
    assert left_out(Record("r", Task("t", "1 + 1?"), turns, None, "2", generation), []) == []


@pytest.mark.parametrize("name", ["chat-en.json", "chat-zh.json"])
def test_real_single_questions_lose_nothing(rows, name):
    count = LeftOut(lambda task: PLAIN.messages(task, {}))
    for row in rows(name):
        count.add(imported(row))
    assert count.total > 900 and count.traces == 0
    count.refuse()


@pytest.mark.parametrize("name", ["toolcall-sharegpt-en.json", "toolcall-sharegpt-zh.json"])
def test_real_conversations_with_tools_are_refused_with_counts_and_an_example(rows, name):
    count = LeftOut(lambda task: PLAIN.messages(task, {}))
    several = with_tools = 0
    for row in rows(name):
        several += len(row["conversations"]) > 2
        with_tools += row["tools"] not in ("", "[]")
        count.add(imported(row))
    assert count.kinds["earlier turns"] >= several * 0.9
    assert count.kinds["tools"] == with_tools
    with pytest.raises(UserError, match=rf"{count.traces} of {count.total} traces.*the first: dat"):
        count.refuse()
