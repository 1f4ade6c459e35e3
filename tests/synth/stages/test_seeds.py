"""What new questions start from, how they are read, and the library that asks for them."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.config.augment import FROM_A_QUESTION, FROM_NOTHING, Augment
from synth.core.prompts import load_prompt, prompt_names
from synth.core.record import Task
from synth.stages._augment.seeds import draw_seeds
from synth.stages._augment.tags import tagged

LIBRARY = [name for name in prompt_names() if name.startswith(("augment/", "rewrite/"))]


def said(*texts):
    return " ".join(f"<question>{text}</question>" for text in texts)


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<question>1 + 1?</question>", ["1 + 1?"]),
        ("Sure:\n<question>\n a\n</question> and <question>b < c</question> done", ["a", "b < c"]),
        ("", "no <question> found"),
        ("<Question>a</Question>", "no <question> found"),
        ("<question>a", "do not pair: no </question>"),
        ("a</question>", "do not pair"),
        ("<question><question>a</question></question>", "do not pair"),
        ("<question>a</question></question>", "do not pair"),
        ("<question>...</question>", "nothing between"),
        ("<question></question>", "nothing between"),
    ],
)
def test_what_stands_between_tags_is_read_without_guessing(text, found):
    if isinstance(found, list):
        assert tagged(text, "question") == found
    else:
        with pytest.raises(ValueError, match=found):
            tagged(text, "question")


@given(st.lists(st.text(st.characters(exclude_characters="<"), min_size=1), min_size=1, max_size=4))
def test_every_tagged_text_is_read_back(texts):
    if all(any(c.isalnum() for c in text) for text in texts):
        assert tagged(said(*texts), "question") == [text.strip() for text in texts]


@given(st.text(alphabet="<>/question a1", max_size=60))
def test_no_answer_breaks_the_reader(text):
    try:
        found = tagged(text, "question")
    except ValueError:
        return
    assert found and all(found)


# --- what requests start from ---------------------------------------------------------------------


def drawn(entry, tasks, seed=0):
    skipped = Counter()
    made = list(
        draw_seeds(Augment(**entry), tasks, random.Random(seed), lambda text: text, skipped)
    )
    return made, skipped


def tasks(*questions, answer="5"):
    return [Task(f"t{i}", question, answer) for i, question in enumerate(questions)]


@pytest.mark.parametrize(
    ("question", "masks"),
    [
        ("Anna has 3 apples and 12 pears.", {"3", "12"}),
        ("It costs $1,250.50 in 2024.", {"1250.50", "2024"}),
        ("Solve x^2 = 9 for x.", {"9"}),
        ("Let $a_1 = 7$ and $10^{3}$.", {"7"}),
        ("At 10:30 on 1/2/2024, in H2O, the 3rd time.", set()),
        ("$\\frac{1}{2}$ of it", set()),
        ("从 3 个苹果和12个梨中", {"3", "12"}),
        ("No number here.", set()),
    ],
)
def test_numbers_that_stand_by_themselves_are_masked(question, masks):
    made, skipped = drawn({"make": "fobar", "each": 9}, tasks(question))
    assert {draw.number for draw in made} == masks
    assert skipped == (Counter() if masks else Counter({"no number": 1}))
    for draw in made:
        assert draw.asked.metadata["masked"].count(draw.unknown) > question.count(draw.unknown)


def test_the_unknown_is_a_letter_that_does_not_stand_there_yet():
    (draw,), _ = drawn({"make": "fobar"}, tasks("If x is y, what is six times 4?"))
    assert draw.unknown == "z"
    assert draw.asked.metadata["masked"] == "If x is y, what is six times z?"


@pytest.mark.slow
@given(st.text(max_size=80))
def test_masking_takes_out_one_number_and_nothing_else(question):
    for draw in drawn({"make": "fobar", "each": 3}, tasks(question))[0]:
        head, _, tail = draw.asked.metadata["masked"].partition(draw.unknown)
        assert question.startswith(head) or draw.unknown in question
        assert question.endswith(tail) or draw.unknown in question
        float(draw.number)


def test_what_lacks_an_answer_is_counted_and_not_asked():
    made, skipped = drawn({"make": "fobar"}, tasks("1 + 1?", answer=None))
    assert (made, skipped) == ([], Counter({"no answer": 1}))
    made, skipped = drawn({"make": "back_translate"}, tasks("1 + 1?", answer=None))
    assert (made, skipped) == ([], Counter({"no solution": 1}))


def test_the_seed_decides_what_is_drawn():
    many = tasks(*(f"question {i}" for i in range(50)))
    entry = {"make": "self_instruct", "draws": 5}
    shown = [[d.asked.metadata["seeds"] for d in drawn(entry, many, seed)[0]] for seed in (1, 1, 2)]
    assert shown[0] == shown[1] != shown[2]
    picked = [d.parents for d in drawn({"make": "rephrase", "draws": 7}, many, 1)[0]]
    assert len(picked) == 7 and picked != [[f"t{i}"] for i in range(7)]


def test_requests_from_nothing_are_each_combination_once_and_never_alike(tmp_path):
    path = tmp_path / "both.jinja"
    path.write_text(
        "---\ndescription: d\nversion: 1\nvariables: {persona: p, topic: t, count: c}\n---\n"
        "{{ persona }} {{ topic }} {{ count }}"
    )
    entry = {"make": str(path), "personas": ["a", "b"], "topics": ["1", "2", "3"]}
    made, _ = drawn(entry, [])
    assert sorted((d.drawn["persona"], d.drawn["topic"]) for d in made) == [
        (p, t) for p in "ab" for t in "123"
    ]
    assert len(drawn({**entry, "draws": 2}, [])[0]) == 2
    alike, _ = drawn({"make": "self_instruct", "draws": 50, "shots": 2}, tasks("a", "b", "c"))
    assert len(alike) == len({tuple(d.parents) for d in alike}) == 6


# --- the library ----------------------------------------------------------------------------------


def test_the_library_is_whole_in_both_languages():
    forms = {name.rpartition(".")[0] for name in LIBRARY}
    assert forms == {
        *(f"augment/{form}" for form in (
            "rephrase", "evolve_deeper", "evolve_broader", "evolve_constrained", "self_instruct",
            "self_instruct_turns", "persona", "topic", "back_translate", "self_verify", "fobar",
            "translate")),
        *(f"rewrite/{form}" for form in ("shorten", "lengthen", "critique", "revise")),
    }  # fmt: skip
    for form in forms:
        english, chinese = load_prompt(f"{form}.en"), load_prompt(f"{form}.zh")
        assert set(english.variables) == set(chinese.variables)


@pytest.mark.parametrize("name", LIBRARY)
def test_every_form_says_how_its_result_is_to_be_written(name):
    known = FROM_A_QUESTION | FROM_NOTHING | {"count", "reasoning", "critique"}
    prompt = load_prompt(name)
    assert set(prompt.variables) <= known
    values = {variable: f"the {variable}" for variable in known} | {
        "seeds": ["one", "two"],
        "count": 2,
    }
    text = "\n".join(message["content"] for message in prompt.render(values))
    for variable in set(prompt.variables) - {"seeds", "count", "unknown"}:
        assert f"the {variable}" in text
    tags = {"augment": ["question"], "rewrite": ["reasoning", "answer"]}[name.partition("/")[0]]
    if "critique" in name:
        tags = ["critique"]
    if "fobar" not in name:
        assert all(f"<{tag}>" in text and f"</{tag}>" in text for tag in tags)
    with pytest.raises(ValueError):  # a model that only repeats its prompt has written nothing
        tagged(text, tags[0], text)
