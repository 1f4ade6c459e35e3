"""Every layout by a row as its data sets have them: found by itself, and read right."""

import json
from pathlib import Path

import pytest

from synth.core import plugins
from synth.core.errors import UserError
from synth.core.reasoning import split_trace
from synth.core.record import Generation, Record, Task, to_row
from synth.traces import file
from synth.traces._layouts.known import LAYOUTS, ROLES
from synth.traces._load import Unique, read_traces, records
from synth.traces.base import Row, Skipped

QUESTION, THOUGHT, ANSWER = "What is 1+1?", "One and one are two.", r"It is \boxed{2}."
INLINE = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
OPEN_THOUGHTS = (
    f"<|begin_of_thought|>\n\n{THOUGHT}\n\n<|end_of_thought|>\n\n"
    f"<|begin_of_solution|>\n\n{ANSWER}\n\n<|end_of_solution|>"
)
WORKED = r"We add them and get $\boxed{2}$."
TURNS = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": INLINE}]
SAID = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": INLINE}]

# Layout, a row, and the reference answer that it gives.
ROWS = {
    "openthoughts-default": (
        "sharegpt",
        {
            "system": "Think first.",
            "conversations": [
                {"from": "user", "value": QUESTION},
                {"from": "assistant", "value": OPEN_THOUGHTS},
            ],
        },
        None,
    ),
    "openthoughts-metadata": (
        "openthoughts",
        {
            "problem": QUESTION, "deepseek_reasoning": THOUGHT, "deepseek_solution": ANSWER,
            "ground_truth_solution": WORKED, "domain": "math", "source": "numina_math",
            "test_cases": None, "starter_code": None,
        },
        "2",
    ),
    "openthoughts-math": (
        "sharegpt",
        {
            "source": "numina", "problem": QUESTION, "solution": WORKED, "messages": [TURNS[0], {"role": "assistant", "content": WORKED}],
            "system": "Think first.", "conversations": [SAID[0], {"from": "gpt", "value": OPEN_THOUGHTS}],
            "generated_token_count": 9, "correct": True,
        },
        "2",
    ),
    "openthoughts3": ("sharegpt", {"difficulty": 6, "source": "ai2", "domain": "math", "conversations": SAID}, None),
    "s1k": (
        "s1k",
        {
            "question": QUESTION, "solution": "2", "cot_type": "math", "source_type": "aime",
            "metadata": "{'year': 2024}", "cot": None, "thinking_trajectories": [THOUGHT],
            "attempt": ANSWER,
        },
        "2",
    ),
    "s1k-1.1": (
        "s1k",
        {
            "solution": WORKED, "question": QUESTION, "cot_type": "math", "source_type": "aime",
            "metadata": "{}", "gemini_thinking_trajectory": "another", "gemini_attempt": "3",
            "deepseek_thinking_trajectory": THOUGHT, "deepseek_attempt": ANSWER,
            "deepseek_grade": "Yes",
        },
        "2",
    ),
    "mixture-of-thoughts": ("messages", {"messages": TURNS, "num_tokens": 20, "source": "am"}, None),
    "numina-cot": ("messages", {"source": "aops", "problem": QUESTION, "solution": INLINE, "messages": TURNS}, None),
    "open-math-reasoning": (
        "openmathreasoning",
        {
            "expected_answer": "2", "problem_type": "has_answer_extracted", "problem_source": "aops",
            "generation_model": "DeepSeek-R1", "pass_rate_72b_tir": "0.96875", "problem": QUESTION,
            "generated_solution": INLINE, "inference_mode": "cot", "used_in_kaggle": True,
        },
        "2",
    ),
    "trl-text": ("prompt-completion", {"prompt": QUESTION, "completion": INLINE}, None),
    "trl-chat": ("prompt-completion", {"prompt": TURNS[:1], "completion": TURNS[1:]}, None),
    "prompt-response": ("prompt-completion", {"prompt": QUESTION, "response": INLINE, "ground_truth": 2}, "2"),
    "sharegpt": ("sharegpt", {"id": "x_0", "conversations": SAID}, None),
    "conversation": ("sharegpt", {"conversation": TURNS, "model": "m"}, None),
    "as-lists": ("messages", {"messages": {"role": ["user", "assistant"], "content": [QUESTION, INLINE]}}, None),
    "as-json": ("messages", {"messages": json.dumps(TURNS)}, None),
    "alpaca": ("alpaca", {"instruction": QUESTION, "input": "", "output": INLINE}, None),
    "medical-o1": ("question-response", {"Question": QUESTION, "Complex_CoT": THOUGHT, "Response": ANSWER}, None),
    "nemotron": (
        "question-response",
        {
            "input": TURNS[:1], "output": INLINE, "category": "math", "generator": "R1",
            "reasoning": "on", "system_prompt": "detailed thinking on",
        },
        None,
    ),
    "dolphin-r1": ("messages", {"messages": TURNS[:1], "reasoning": THOUGHT, "answer": ANSWER, "model": "R1"}, None),
    "qa-reasoning": ("question-answer", {"question": QUESTION, "reasoning": THOUGHT, "answer": ANSWER}, None),
    "reasoning-with-tags": (
        "question-response",
        {"question": QUESTION, "reasoning": f"<think>{THOUGHT}</think>", "response": ANSWER},
        None,
    ),
    "said-twice": ("question-response", {"question": QUESTION, "reasoning": THOUGHT, "response": INLINE}, None),
    "reasoning-field": (
        "messages",
        {"messages": [TURNS[0], {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT}]},
        None,
    ),
    "parts": (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": ANSWER}],
                },
            ]
        },
        None,
    ),
}  # fmt: skip


def read(rows, **config):
    """The items of rows from memory, and what was said."""
    said = []
    made = file.Config(path="rows", **config)
    given = (Row(f"rows:{n}", row) for n, row in enumerate(rows, 1))
    return list(records(given, made, "rows", said.append, Unique())), said


def one(row, **config):
    items, _ = read([row], **config)
    assert len(items) == 1
    return items[0]


@pytest.mark.parametrize("name", ROWS)
def test_each_published_layout_is_found_and_read(name):
    layout, row, reference = ROWS[name]
    items, said = read([row])
    record = items[0]
    assert isinstance(record, Record), record
    assert said[0].startswith(f"  rows: layout {layout}: {next(iter(row))}")
    assert (record.task.question, record.reasoning, record.answer) == (QUESTION, THOUGHT, ANSWER)
    assert record.task.answer == reference
    assert record.messages[-1] == {"role": "user", "content": QUESTION}


def test_what_is_not_mapped_is_metadata_and_the_source_is_the_tasks():
    record = one(ROWS["open-math-reasoning"][1])
    assert record.task.source == "aops"
    assert record.task.metadata == {
        "problem_type": "has_answer_extracted", "pass_rate_72b_tir": "0.96875",
        "inference_mode": "cot", "used_in_kaggle": True,
    }  # fmt: skip
    assert record.generation.model == "DeepSeek-R1"
    record = one(ROWS["s1k-1.1"][1])
    assert record.task.source == "aime"
    assert record.task.metadata["solution"] == WORKED
    assert record.task.metadata["gemini_attempt"] == "3"
    assert one(ROWS["nemotron"][1]).task.metadata["reasoning"] == "on"
    assert one(ROWS["sharegpt"][1]).task.source == "rows"


def test_openr1_gives_a_record_for_each_generation():
    row = {
        "problem": QUESTION, "solution": WORKED, "answer": "2", "problem_type": "Algebra",
        "question_type": "math-word-problem", "source": "olympiads", "uuid": "u",
        "is_reasoning_complete": [True, False], "generations": [INLINE, "<think>\nHm"],
        "correctness_math_verify": [True, False], "correctness_llama": None,
        "finish_reasons": ["stop", "length"], "correctness_count": 1, "messages": TURNS,
    }  # fmt: skip
    (first, second), said = read([row])
    assert "layout openr1" in said[0]
    assert (first.reasoning, first.answer) == (THOUGHT, ANSWER)
    assert (second.reasoning, second.answer) == ("Hm", "")
    assert first.task.id == second.task.id
    assert first.id != second.id
    assert [r.generation.sample for r in (first, second)] == [0, 1]
    assert [r.generation.finish_reason for r in (first, second)] == ["stop", "length"]
    assert [r.task.metadata["correctness_math_verify"] for r in (first, second)] == [True, False]
    assert first.task.answer == "2"
    assert first.task.source == "olympiads"
    assert "messages" not in first.task.metadata
    assert first.task.metadata["uuid"] == "u"


def test_the_evaluation_of_qwen_math_gives_a_record_for_each_answer(rows):
    items, said = read(rows("math-cot-100.jsonl"))
    assert "layout qwen-math" in said[0]
    assert len(items) == 800
    assert all(isinstance(item, Record) for item in items)
    assert len({item.id for item in items}) == 800
    assert len({item.task.id for item in items}) == 100
    first = items[0]
    assert first.task.answer == "420"
    assert first.messages[0]["role"] == "system"
    assert first.task.metadata["score"] is True
    assert first.task.metadata["pred"] == "420"
    assert first.task.metadata["level"] == "Level 3"
    assert not {"response", "query", "code"} & first.task.metadata.keys()


@pytest.mark.parametrize(
    ("name", "layout", "number"),
    [("math500.jsonl", "solution", 500), ("gsm8k-test.jsonl", "question-answer", 1319)],
)
def test_worked_solutions_are_traces_too(rows, name, layout, number):
    items, said = read(rows(name))
    assert f"layout {layout}" in said[0]
    assert sum(isinstance(item, Record) for item in items) == number


def test_a_solution_that_is_the_trace_is_no_reference():
    """It would agree with whatever the trace says."""
    assert one({"problem": QUESTION, "solution": WORKED}).task.answer is None
    assert one({"problem": QUESTION, "solution": WORKED, "answer": "2"}).task.answer == "2"
    assert one({"question": QUESTION, "response": INLINE, "solution": WORKED}).task.answer == "2"


def test_the_last_assistant_turn_of_several_is_the_trace():
    turns = [
        {"from": "system", "value": "Be short."},
        {"from": "human", "value": "First?"},
        {"from": "function_call", "value": '{"name": "f"}'},
        {"from": "observation", "value": "7"},
        {"from": "gpt", "value": "Seven."},
        {"from": "human", "value": "And then?"},
        {"from": "gpt", "value": "<think>more</think>Eight."},
        {"from": "human", "value": "Thanks."},
    ]
    record = one({"conversations": turns})
    assert record.task.question == "And then?"
    assert (record.reasoning, record.answer) == ("more", "Eight.")
    roles = [message["role"] for message in record.messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user"]
    other = [dict(turn) for turn in turns]
    other[1]["value"] = "Second?"
    assert one({"conversations": other}).task.id != record.task.id


def test_a_call_of_tools_without_text_is_kept_as_json():
    call = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
    turns = [TURNS[0], {"role": "assistant", "content": None, "tool_calls": call}]
    assert json.loads(one({"messages": turns}).answer) == call


def test_alpaca_with_input_system_and_history():
    record = one(
        {
            "instruction": "Add.", "input": "1 and 1", "output": INLINE, "system": "Think.",
            "history": [["Hello", "Hi"]],
        }
    )  # fmt: skip
    assert record.task.question == "Add.\n1 and 1"
    assert [m["content"] for m in record.messages] == ["Think.", "Hello", "Hi", "Add.\n1 and 1"]


def test_a_column_can_be_named_and_its_lists_dealt_out():
    row = {
        "q": QUESTION,
        "outs": [INLINE, ANSWER],
        "gold": 2,
        "grades": [1.0, 0.5],
        "choices": ["a", "b"],
    }
    columns = {"question": "q", "response": "outs", "answer": "gold"}
    (first, second), _ = read([row], columns=columns, per_sample=["grades"])
    assert (first.reasoning, second.reasoning) == (THOUGHT, None)
    assert first.task.answer == "2"
    assert [r.task.metadata["grades"] for r in (first, second)] == [1.0, 0.5]
    assert first.task.metadata["choices"] == ["a", "b"]


def test_a_named_column_changes_a_found_layout():
    row = {"question": QUESTION, "response": INLINE, "answer": "3", "truth": "2"}
    assert one(row).task.answer == "3"
    assert one(row, columns={"answer": "truth"}).task.answer == "2"


def test_names_that_are_not_there_are_met_with_the_nearest():
    with pytest.raises(
        UserError, match=r"columns\.answer: no column 'anser'; did you mean 'answer'\?"
    ):
        read([{"question": QUESTION, "answer": "2"}], columns={"answer": "anser"})
    with pytest.raises(ValueError, match="did you mean 'alpaca'"):
        file.Config(path="x", layout="alpacca")
    with pytest.raises(ValueError, match="did you mean 'question'"):
        file.Config(path="x", columns={"qestion": "a"})


def test_unknown_columns_are_listed():
    with pytest.raises(UserError, match="rows:1: no known layout fits these columns: a, b"):
        read([{"a": 1, "b": 2}])
    with pytest.raises(UserError, match="the layout openr1 does not fit"):
        read([{"question": QUESTION, "response": INLINE}], layout="openr1")


def test_other_dialects_are_read_as_the_normaliser_reads_them():
    text = "[THINK]one[/THINK]two"
    record = one({"prompt": QUESTION, "completion": text})
    assert (record.reasoning, record.answer) == split_trace(text)


def test_our_own_records_come_back_as_they_were(tmp_path):
    task = Task("t", QUESTION, "2", "s", {"level": 3})
    made = Generation("t", "m", "p", "h", {"top_p": 1.0}, 4, "stop", 1, 2, 0.5, 1.5, "k", ["j"])
    record = Record("r", task, [{"role": "user", "content": QUESTION}], THOUGHT, ANSWER, made)
    row = to_row(record)
    items, said = read(
        [row, row, {**row, "id": 7}, {**row, "task": {**row["task"], "question": None}}]
    )
    assert "layout records" in said[0]
    assert items[0] == record
    assert items[1].id == "r-2"
    assert [item.reason for item in items[2:]] == [
        "not a record of ours: TypeError id is a number",
        "not a record of ours: TypeError question is empty",
    ]


def test_ids_depend_on_the_content_and_are_unique():
    rows = [ROWS["trl-text"][1], ROWS["alpaca"][1], ROWS["trl-text"][1]]
    items, _ = read(rows[:1] + rows, columns={})
    assert all(isinstance(item, Record) for item in items[:2])
    first, again = items[0], items[1]
    assert again.id == f"{first.id}-2"
    assert read([rows[0]])[0][0].id == first.id
    assert len({item.id for item in items if isinstance(item, Record)}) == 3


def test_every_layout_and_source_says_what_it_is(monkeypatch):
    assert {row[0] for row in ROWS.values()} | {"records", "openr1", "qwen-math", "solution"} == {
        layout.name for layout in LAYOUTS
    }
    assert all(layout.about for layout in LAYOUTS)
    page = (Path(__file__).parents[3] / "docs" / "traces.md").read_text(encoding="utf-8")
    assert [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")] == [
        layout.name for layout in LAYOUTS
    ]
    assert all(f"`{role}`" in page for role in ROLES)
    monkeypatch.setitem(plugins.PACKAGES, "trace source", "synth.traces")
    assert plugins.names("trace source") == ["file", "hub"]
    assert plugins.describe("trace source", "file").startswith("Traces from files:")
    assert plugins.describe("trace source", "hub").startswith("Traces from a `datasets` hub id")


def test_sources_are_read_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setitem(plugins.PACKAGES, "trace source", "synth.traces")
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS["alpaca"][1]) + "\nbroken\n")
    (tmp_path / "b.jsonl").write_text(json.dumps(ROWS["trl-chat"][1]) * 1 + "\n")
    entries = [
        {"source": "file", "path": str(tmp_path / "a.jsonl"), "name": "first"},
        {"source": "file", "path": str(tmp_path / "b.jsonl")},
    ]
    said = []
    items = list(read_traces(entries, said.append))
    assert [type(item) for item in items] == [Record, Skipped, Record]
    assert items[0].id.startswith("first-")
    assert items[2].id.startswith("b-")
    assert said[1] == f"  first: 1 traces; skipped 1: not JSON 1 (first {tmp_path}/a.jsonl:2)"
