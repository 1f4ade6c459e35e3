import csv
import gzip
import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from filters import overlap as module
from filters._decontamination.eval_sets import EvalSet, Item, read_set
from filters._decontamination.index import FLOOR, Index, tokens_of
from filters.base import Context, decide
from synth.core.errors import UserError
from synth.core.record import Record, Task

APPLES = "Tom has 1,234 apples, gives half of them to Ann and eats three. How many are left?"
TRAIN = "A train leaves Oslo at 9 o'clock and goes 80 miles an hour. When is it 240 miles away?"


@pytest.fixture
def overlap(make, record):
    def run(question, *evaluation, **options):
        tasks = [Task(f"e{i}", text) for i, text in enumerate(evaluation)]
        return make("overlap", Context(eval_tasks=tasks), **options)(record(question=question))

    return run


def test_the_same_question_set_otherwise(overlap):
    found = overlap(APPLES.upper().replace("1,234", "$1234$"), "What is 2 + 2?", APPLES)
    assert not found.keep
    assert found.reason == "overlaps evaluation: overlap 1, over 0.7"
    shared = "tom has 1234 apples gives half of them to ann and eats three how many are left"
    assert found.evidence == {
        "set": "this run",
        "item": "e1",
        "row": 1,
        "how": "the same question",
        "shared": shared,
    }


@pytest.mark.parametrize("one", ["34 + 12", "34+12", "12 + 34 ="])
def test_reordered(overlap, one):
    evaluation = "12 + 34 =" if "=" in one else "12 + 34"
    assert not overlap(one, evaluation).keep


def test_subtraction_is_on_the_careful_side(overlap):
    assert overlap("34 - 12", "12 - 34").evidence["how"] == "the same words in another order"
    assert overlap("34 - 12", "12 - 34", reordered=False).keep
    assert overlap("34 + 12", "12 - 34").keep


@pytest.mark.parametrize(
    "edited",
    [
        f"Read this with care and answer in a sentence. {APPLES} Show every step of your work.",
        APPLES.replace("gives half", "hands half"),
        APPLES.replace("Tom", "Tim"),
        "How many are left? " + APPLES.removesuffix(" How many are left?"),
    ],
)
def test_edited(overlap, edited):
    found = overlap(edited, TRAIN, APPLES)
    assert not found.keep
    assert found.evidence["item"] == "e1"
    assert found.score > 0.7


def test_another_number_is_another_question(overlap):
    assert overlap(APPLES.replace("1,234", "1,236"), TRAIN, APPLES).keep
    assert overlap(TRAIN.replace("240", "320"), TRAIN, APPLES).keep


def test_a_common_phrase_is_no_overlap(overlap):
    other = "Ben has 12 pears, gives half of them to his sister and buys nine. How many are left?"
    assert overlap(other, TRAIN, APPLES).keep


def test_the_bound_moves(overlap):
    half = APPLES[:60]
    assert overlap(half, TRAIN, APPLES).keep
    found = overlap(half, TRAIN, APPLES, overlap_max=0.5)
    assert not found.keep and 0.5 < found.score < 0.7 and found.threshold == 0.5
    with pytest.raises(ValidationError):
        module.Config(overlap_max=FLOOR - 0.01)


def test_a_short_evaluation_question_within_a_longer_one(overlap):
    assert not overlap("Tell me now: what is 17 times 23?", "What is 17 times 23?").keep
    assert overlap("What is 17 + 23 - 5?", "17 + 23").keep


def test_the_wording_of_a_template_does_not_count(overlap):
    template = "State the final answer to the following arithmetic problem: {} ="
    evaluation = [template.format(f"{a} + {a + 7}") for a in range(10, 40)]
    assert overlap(template.format("11 + 55"), *evaluation).keep
    assert not overlap(template.format("11 + 18"), *evaluation).keep
    assert not overlap(template.format("18 + 11"), *evaluation).keep
    words = [
        f"How many letters r are in the word {w}?" for w in ("berry", "arrow", "river", "rear")
    ]
    assert overlap("How many letters r are in the word mirror?", *words).keep
    assert not overlap("How many letters r are in the word arrow? Say it.", *words).keep


def test_one_evaluation_question_twice_is_no_template(overlap):
    found = overlap(f"Well. {APPLES}", APPLES, APPLES)
    assert not found.keep and found.evidence["item"] == "e0"


def test_chinese(overlap):
    evaluation = "小明有１２个苹果，他又买了３个苹果，一共有多少个苹果？"
    assert not overlap("小明有12个苹果，他又买了3个苹果，一共有多少个苹果", evaluation).keep
    assert not overlap("问题：小明有12个苹果，他又买了3个苹果，一共有几个苹果？", evaluation).keep
    assert overlap("小明有15个苹果，他又买了8个苹果，一共有多少个苹果？", evaluation).keep
    assert overlap("树上有5只鸟，又来了6只，一共有多少只鸟？", evaluation).keep


def test_code_of_a_drawing_does_not_count(overlap):
    drawing = "[asy] draw((0,0)--(3,4)); label('A',(0,0),N); [/asy]"
    question = "In the picture, how long is the side of the triangle that has a right angle at A?"
    assert not overlap(question, f"{question} {drawing}").keep
    other = f"What is the name of the river that flows through the town of Bonn? {drawing}"
    assert overlap(other, f"{question} {drawing}").keep
    assert not overlap(drawing, drawing.upper()).keep


def test_nothing_to_overlap_with(make, record):
    check = module.build(module.Config(), Context())
    assert check(record(question="What is 2 + 2?")).values == {"overlap": None}
    assert check.notes == ["there is no evaluation question to compare with"]


def test_what_cannot_be_checked_is_said(record):
    tasks = [Task(f"e{i}", text) for i, text in enumerate(("", "2 + 2", "?", APPLES))]
    notes = module.build(module.Config(), Context(eval_tasks=tasks)).notes
    assert notes == [
        "compared with evaluation questions: 4 of this run",
        "not checked, as they hold no word: this run e0, this run e2",
        "found only where they are the whole question, as they have fewer than 5 words: "
        "this run e1",
    ]


# --- named sets -------------------------------------------------------------------------------------

ROWS = [
    {"unique_id": "a/1", "Problem": APPLES, "solution": "x"},
    {"unique_id": "a/2", "Problem": "  ", "solution": "x"},
    {"unique_id": None, "Problem": TRAIN, "solution": "x"},
]


def written(path):
    if path.name.endswith(".csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ROWS[0])
            writer.writeheader()
            writer.writerows(ROWS)
    elif path.name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.name.endswith(".json"):
        path.write_text(json.dumps({"version": 1, "data": ROWS}))
    else:
        lines = "\n\n".join(map(json.dumps, ROWS)).encode()
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


@pytest.mark.parametrize("name", ["s.jsonl", "s.jsonl.gz", "s.json", "s.csv", "s.parquet"])
def test_sets_in_files(tmp_path, name):
    items, notes = read_set(EvalSet(path=written(tmp_path / name)))
    third = "" if name == "s.csv" else "2"  # CSV has no null
    assert items == [Item(name, "a/1", 0, APPLES), Item(name, third, 2, TRAIN)]
    assert notes == [f"{name}: not checked, as the question is empty or no text: rows 1"]


def test_a_folder_is_one_set(tmp_path):
    for name in ("a.jsonl", "b.csv"):
        written(tmp_path / name)
    (tmp_path / "README.md").write_text("no data")
    items, _ = read_set(EvalSet(path=tmp_path, name="both"))
    assert [(item.set, item.row) for item in items] == [("both", r) for r in (0, 2, 3, 5)]


def test_a_hit_names_set_and_row(make, record, tmp_path):
    check = make("overlap", sets=[{"path": written(tmp_path / "s.jsonl")}])
    found = check(record(question=f"Hello! {TRAIN}"))
    assert (found.evidence["set"], found.evidence["item"], found.evidence["row"]) == (
        "s.jsonl",
        "2",
        2,
    )


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("s.jsonl", '{"question": "one"}\n{"questio', {}, "line 2 is not JSON"),
        ("s.jsonl", "[1, 2]\n", {}, "an object was expected, this is a list"),
        ("s.jsonl", "", {}, "no questions"),
        ("s.jsonl", '{"a": "x", "b": "y"}', {}, "which column holds the question.*one of a, b"),
        ("s.jsonl", '{"ask": "x"}', {"column": "asc"}, "no column 'asc'; did you mean 'ask'"),
        ("s.jsonl", '{"question": "x"}', {"id": "idd"}, "no column 'idd'"),
        ("s.json", '{"a": 1}', {}, "a list of objects was expected"),
        ("s.json", "[" * 100_000, {}, "cannot be read"),
        ("s.parquet", "no parquet", {}, "no sound Parquet"),
        ("s.csv", "question\n\ud800", {}, "cannot be read"),
        ("s.txt", "question", {}, "an evaluation set is one of"),
    ],
)
def test_a_set_that_cannot_be_read_is_the_users_error(tmp_path, name, text, options, message):
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=message) as error:
        module.build(module.Config(sets=[{"path": path, **options}]), Context())
    assert str(error.value).isprintable()


def test_sets_are_named_once_and_have_one_place(tmp_path):
    path = written(tmp_path / "s.jsonl")
    with pytest.raises(UserError, match="two evaluation sets are called"):
        module.build(module.Config(sets=[{"path": path}, {"path": path}]), Context())
    for wrong in ({}, {"path": path, "dataset": "a/b"}, {"path": tmp_path / "none.jsonl"}):
        with pytest.raises(ValidationError):
            module.Config(sets=[wrong])


def test_another_file_is_another_judgement(tmp_path):
    path = written(tmp_path / "s.jsonl")
    before = module.Config(sets=[{"path": path}]).model_dump(mode="json")
    assert module.Config(sets=[{"path": path}]).model_dump(mode="json") == before
    path.write_text(json.dumps({"question": "Another?"}))
    assert module.Config(sets=[{"path": path}]).model_dump(mode="json") != before


def test_a_hub_set(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "repo"
    folder.mkdir()
    rows = datasets.Dataset.from_list([{"prompt": APPLES, "task_id": 7}])
    rows.to_parquet(str(folder / "test.parquet"))
    # A folder in the hub's layout is read by the same call as a hub id.
    items, _ = read_set(EvalSet(dataset=str(folder), name="hub"))
    assert items == [Item("hub", "7", 0, APPLES)]
    with pytest.raises(UserError, match="cannot load the data set"):
        read_set(EvalSet(dataset=str(folder), split="nowhere"))


# --- properties -------------------------------------------------------------------------------------

WORD = st.sampled_from([f"w{c}" for c in "abcdefghijklmnop"] + ["7", "12", "+", "三"])
TEXTS = st.lists(WORD, min_size=5, max_size=30).map(" ".join)


@given(st.lists(TEXTS, min_size=1, max_size=8), TEXTS, TEXTS)
def test_a_question_in_other_words_is_found_whole(questions, before, after):
    index = Index([Item("s", str(i), i, q) for i, q in enumerate(questions)])
    for question in questions:
        if all(a == b for a, b in zip(tokens_of(question), question.split(), strict=True)):
            hit = index.within(tokens_of(f"{before} {question} {after}"))
            assert hit is not None and hit.overlap == pytest.approx(1)


@given(st.lists(st.text(), max_size=5), st.text())
@settings(max_examples=200)
def test_any_text(questions, text):
    tasks = [Task(str(i), q) for i, q in enumerate(questions)]
    config = module.Config()
    check = module.build(config, Context(eval_tasks=tasks))
    for question in (text, *questions):
        figures = check(Record("r", Task("t", question), [], None, ""))
        value = figures.values["overlap"]
        assert value is None or value == 0 or FLOOR <= value <= 1
        assert decide(figures, config).keep is not None
        if tokens_of(question) and question in questions:
            assert value == 1
        json.dumps(dict(figures.evidence or {}))


HOSTILE = {
    "numbers": "1,234" * 200_000,
    "commas": "1," * 500_000,
    "grouped": "1{,}234" * 140_000,
    "mixed": "1\\,234," * 120_000,
    "fractions": r"\frac{" * 200_000,
    "closed": r"\frac{1}{" * 60_000 + "}" * 60_000,
    "braces": "{" * 1_000_000,
    "backslashes": "\\" * 1_000_000,
    "points": "." * 500_000 + "5",
    "drawings": "[asy]" * 200_000,
    "hyphens": "a-" * 500_000,
    "surrogates": "\ud800" * 500_000,
    "zeros": "0." + "0" * 1_000_000,
    "words": "how many are left " * 55_000,
    "one": APPLES * 12_000,
    "nul": "\0" * 1_000_000,
    "greek": "α" * 1_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_take_linear_time(name):
    tasks = [Task(f"e{i}", f"{APPLES} Say {i}.") for i in range(50)]
    check = module.build(module.Config(), Context(eval_tasks=tasks))
    start = time.process_time()
    figures = check(Record("r", Task("t", HOSTILE[name]), [], None, ""))
    assert time.process_time() - start < 20
    assert figures.values["overlap"] is not None


def test_real_questions(make, record, rows):
    test = [row["question"] for row in rows("gsm8k-test.jsonl")]
    tasks = [Task(f"e{i}", question) for i, question in enumerate(test)]
    check = make("overlap", Context(eval_tasks=tasks))
    assert all(not check(record(question=question)).keep for question in test)
    edited = [f"Now this. {re.sub(r'[,;]', '', q).upper()} Good luck!" for q in test[:300]]
    found = sum(not check(record(question=question)).keep for question in edited)
    assert found / len(edited) > 0.98
    train = [row["question"] for row in rows("gsm8k-train.jsonl")[:3000]]
    assert sum(not check(record(question=question)).keep for question in train) <= 3
