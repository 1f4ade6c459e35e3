"""Explaining: where a record came from, and what kept a stored answer from being used again."""

import asyncio
import copy
import json
import time

import pytest

from synth.cli.lookup import find_run
from synth.cli.provenance import Search, changed, explain_origin
from synth.config.validate import load_run
from synth.core.dataset import read_split
from synth.core.errors import UserError
from synth.core.record import Request
from synth.core.run_folder import RunFolder
from synth.stages.pipeline import do_stage
from synth.store.keys import request_key
from synth.store.responses import ResponseStore
from synth.store.usage import StoredResponse, entries

QUESTION = "A dozen eggs cost 3 dollars. What do 5 dozen cost, in dollars?"


def config(**more):
    rows = [
        {"question": QUESTION, "answer": 15},
        {"question": "How many minutes are 3 hours?", "answer": 180},
    ]
    return {
        "name": "r",
        "tasks": {"train": [{"source": "inline", "name": "sums", "tasks": rows}]},
        "teachers": {"t": {"kind": "fake", "price": {"input": 1, "output": 2}}},
        "generate": {
            "prompt": {"template": "boxed.en"},
            "sampling": {"temperature": 0.7, "max_tokens": 50},
        },
        **more,
    }


@pytest.fixture
def generate(tmp_path, monkeypatch, write_config):
    """Runs a generation and gives an explanation of its first record."""
    monkeypatch.chdir(tmp_path)

    def go(config):
        run, _ = load_run(str(write_config(config)))
        for stage in ("tasks", "generate"):
            do_stage(stage, run, lambda text: None)
        first = next(read_split(run.folder / "generate", "train"))
        return explain_origin(RunFolder(run.folder), run.store_path, first.id)

    return go


def test_a_record_says_all_that_is_known_of_it(generate):
    said = generate(config())
    first = next(
        read_split(
            RunFolder(find_run("config.yaml", "generate")[0].path).stage("generate"), "train"
        )
    )
    made = first.generation
    for part in (
        f"record {first.id}",
        f"{first.task.id} (source sums)",
        "t, which says that it is fake",
        f"boxed.en, hash {made.template_hash[:12]}",
        "max_tokens 50, temperature 0.7",
        f"{made.prompt_tokens} prompt + {made.completion_tokens} answer; ${made.cost_usd:.6f}",
        made.key,
        " UTC by run r",
        "nothing like it was in the store",
    ):
        assert part in said, part
    assert max(map(len, said.splitlines())) <= 90


def test_what_an_endpoint_writes_does_not_reach_the_terminal_raw(generate, api):
    answer = api.completion("x", finish="\u202e\x07") | {"model": "\x1b[2J"}
    api.reply = lambda body: (200, {}, answer)
    said = generate(config(teachers={"t": {"kind": "openai", "model": "m", "base_url": api.url}}))
    assert "\\u001b[2J" in said
    assert "\\u202e\\u0007; 10 prompt" in said
    assert all(c.isprintable() or c == "\n" for c in said)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("generate.sampling.temperature", 1.0, "sampling.temperature: 0.7 -> 1.0"),
        ("generate.sampling.max_tokens", 99, "sampling.max_tokens: 50 -> 99"),
        ("generate.sampling.seed", 4, "sampling.seed: None -> 4"),
        ("teachers.t.accuracy", 0.5, "teacher.accuracy: 0.7 -> 0.5"),
        ("generate.prompt.template", "plain", "messages[0].content: "),
        ("generate.samples", {"max": 2}, "sample 0; this one is the first"),
    ],
)
def test_what_differs_is_said_exactly(generate, path, value, says):
    generate(config())
    changed = copy.deepcopy(config())
    *steps, last = path.split(".")
    here = changed
    for step in steps:
        here = here[step]
    here[last] = value
    said = generate(changed)
    if "samples" in path:  # the second sample of the first question
        folder, store = find_run("config.yaml", "generate")
        said = explain_origin(folder, store, "-".join(said.split()[1].split("-")[:-1]) + "-1")
    assert says in said
    if "samples" not in path:
        assert "differs from the nearest stored request" in said
        assert said.count(" -> ") == 1


def test_an_edited_question_is_called_that_with_a_short_diff(generate):
    generate(config())
    edited = config()
    edited["tasks"]["train"][0]["tasks"][0]["question"] = QUESTION.replace("3 dollars", "4 dollars")
    said = generate(edited)
    assert "the question's text was edited; it differs from the nearest" in said
    line = next(line for line in said.splitlines() if "messages[0].content" in line)
    assert "eggs cost 3 dollars" in line
    assert "eggs cost 4 dollars" in line
    assert len(line) < 160


def test_another_question_is_not_an_edit(generate):
    generate(config())
    other = config()
    other["tasks"]["train"][0]["tasks"] = [
        {"question": "Name a prime number between twenty and thirty.", "answer": 23}
    ]
    assert "nothing like it was in the store" in generate(other)


def test_a_question_gives_all_its_records(generate):
    generate(config(name="many") | {"generate": {**config()["generate"], "samples": {"max": 3}}})
    folder, store = find_run("runs/many", "generate")
    id = next(read_split(folder.stage("generate"), "train")).task.id
    said = explain_origin(folder, store, id)
    assert said.count("record ") == 3
    # It does not matter that they were bought together: the first to come is the oldest.
    assert said.count("nothing like it was in the store") == 1
    assert said.count("this one is the first") == 2


def test_an_unknown_id_names_what_is_near(generate):
    said = generate(config())
    known = said.split()[1]
    folder, store = find_run("config.yaml", "generate")
    with pytest.raises(
        UserError, match=f"no record and no question '{known[:-2]}9'.*near: .*sums-"
    ):
        explain_origin(folder, store, known[:-2] + "9")
    with pytest.raises(UserError, match="no folder of a run whose generation is done"):
        find_run("runs", "generate")


def test_without_its_store_it_says_so(generate, tmp_path):
    said = generate(config())
    folder, _ = find_run("config.yaml", "generate")
    with pytest.raises(UserError, match=r"no response store at .*; give the config"):
        explain_origin(folder, tmp_path / "none.sqlite", said.split()[1])
    other = tmp_path / "other.sqlite"
    ResponseStore(other).close()
    assert "its response is not in this store" in explain_origin(folder, other, said.split()[1])


@pytest.mark.slow
def test_the_command(generate, distill):
    id = generate(config()).split()[1]
    done = distill("explain", "runs/r", id)
    assert done.returncode == 0, done.stderr
    assert f"record {id}" in done.stdout
    wrong = distill("explain", "config.yaml", "nothing")
    assert wrong.returncode == 2
    assert "no record and no question 'nothing'" in wrong.stderr


# --- the order of likeness ---


def entry(messages="q", sample=0, teacher="a", age=0, **sampling):
    request = {
        "messages": [{"role": "user", "content": messages}],
        "sampling": sampling,
        "teacher": {"model": teacher},
        "sample": sample,
    }
    return StoredResponse(f"key-{age}", "r", "t", 1, 1, None, 1.0, float(-age), 1, request)


Q = "What is the sum of 17 and 25, and why?"


@pytest.mark.parametrize(
    "nearer_first",
    [
        # Each is nearer than all that follow it.
        [
            entry(Q, sample=3, age=1),
            entry(Q, n=2, age=2),
            entry(Q, sample=1, n=2, age=3),
            entry(Q, teacher="b", age=4),
            entry(Q, teacher="b", n=2, age=5),
            entry(f"Please: {Q}", age=6),
            entry(f"Please: {Q}", teacher="b", age=7),
            entry(Q.replace("17", "18"), age=8),
            entry(Q.replace("17", "18").replace("why", "how"), age=9),
            entry(Q.replace("17", "18").replace("why", "how"), n=2, age=10),
        ]
    ],
)
def test_the_nearest_is_found_wherever_it_stands(nearer_first):
    for i in range(len(nearer_first)):
        for order in (nearer_first[i:], nearer_first[i:][::-1]):
            search = Search(entry(Q), Q)
            for other in order:
                search.see(other)
            assert search.nearest().entry.key == nearer_first[i].key


def test_the_newest_of_those_that_are_equally_near():
    search = Search(entry(Q), Q)
    for age in (1, 2, 3):
        search.see(entry(Q.replace("17", "18"), age=age))
    assert search.nearest().entry.key == "key-1"


def test_a_prompt_around_the_question_does_not_make_questions_alike():
    around = "Reason step by step, then give the final answer in a box. " * 10
    search = Search(entry(around + "How tall is the tower?"), "How tall is the tower?")
    search.see(entry(around + "Who wrote this long novel?"))
    assert search.nearest() is None


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("What is 17 + 25?", "What is 17 + 26?", '"What is 17 + 25?" -> "What is 17 + 26?"'),
        ("abc", "", '"abc" -> ""'),
        ("aa", "aaa", '"aa" -> "aaa"'),
        ("x" * 99 + "1" + "y" * 99, "x" * 99 + "2" + "y" * 99,
         f'"...{"x" * 24}1{"y" * 24}..." -> "...{"x" * 24}2{"y" * 24}..."'),
        ("a\nb", "a\rb", '"a\\nb" -> "a\\rb"'),
    ],
)  # fmt: skip
def test_a_change_is_shown_with_a_little_around_it(old, new, shown):
    assert changed(old, new) == shown


def test_a_long_change_is_shown_by_its_ends():
    assert len(changed("a" * 5000, "b" * 5000)) < 300


def test_twenty_thousand_requests_take_seconds(tmp_path):
    path, number = tmp_path / "s.sqlite", 20_000

    async def fill():
        with ResponseStore(path) as store:
            body = json.dumps({"choices": []}).encode()
            for start in range(0, number, 1000):
                await asyncio.gather(
                    *(
                        store.persist(request_key(request(i), {"kind": "t"}), body)
                        for i in range(start, start + 1000)
                    )
                )

    def request(i):
        text = f"Question {i}: what is {i * 7919 % 10007} plus {i * 104729 % 10007}, step by step?"
        return Request([{"role": "user", "content": text}], {"max_tokens": 50}, 0)

    asyncio.run(fill())
    start = time.monotonic()
    text = request(77).messages[0]["content"].replace("plus", "minus")
    search = Search(entry(text), text)
    for stored in entries(path):
        search.see(stored)
    found = search.nearest()
    assert found.edited
    assert "Question 77:" in found.entry.request["messages"][0]["content"]
    assert time.monotonic() - start < 15
