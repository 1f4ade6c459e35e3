"""New questions and new traces: read without guessing, new, with lineage, and paid for once."""

import json
import re

import pytest

from synth.config.augment import Augment, Rewrite
from synth.config.validate import load_run
from synth.core.dataset import read_split
from synth.core.errors import ConfigError
from synth.core.run_folder import RunFolder
from synth.stages.pipeline import do_stage

QUESTIONS = [
    ("Anna has 3 apples and buys 4 more. How many has she?", "7"),
    ("A train goes 60 km in 2 hours. How fast is it, in km/h?", "30"),
    ("Half of a class of 28 is ill. How many are ill?", "14"),
]
HELD = "What are twelve dozen eggs, counted one by one?"


def said(*texts, tag="question"):
    return " ".join(f"<{tag}>{text}</{tag}>" for text in texts)


@pytest.fixture
def start(api, write_config, tmp_path):
    """Runs stages of a config; `answer(what it is asked)` is what the teacher says."""

    def begin(answer, *stages, questions=QUESTIONS, held=HELD, **sections):
        def reply(body):
            done = answer(body["messages"][-1]["content"])
            return done if isinstance(done, tuple) else (200, {}, api.completion(done))

        api.reply = reply
        config = {
            "name": "r", "runs": str(tmp_path / "runs"),
            "tasks": {
                "train": [{"source": "inline", "name": "q", "tasks": [
                    {"question": q, "answer": a, "level": "easy"} for q, a in questions]}],
                "eval": [{"source": "inline", "name": "e", "tasks": [{"question": held, "answer": 144}]}],
            },
            "teachers": {"big": {"kind": "openai", "model": "m", "base_url": api.url}},
            "generate": {"prompt": {"template": "boxed.en"}, "retries": 0, "concurrency": 1},
            **sections,
        }  # fmt: skip
        run, _ = load_run(str(write_config(config)))
        lines = []
        for stage in ("tasks", *stages):
            do_stage(stage, run, lines.append)
        folder = RunFolder(run.folder)
        last = stages[-1]
        manifest = folder.manifest(last)
        train, rejected = (
            list(read_split(folder.stage(last), split)) if split in manifest["rows"] else []
            for split in ("train", "rejected")
        )
        return train, rejected, manifest, lines

    return begin


def augment(start, teacher, questions=QUESTIONS, **entry):
    return start(teacher, "augment", questions=questions, augment=[{"make": "rephrase", **entry}])


def reasons(rejected):
    return [record.rejected_by.reason for record in rejected]


# --- the stage augment ----------------------------------------------------------------------------


def test_a_rephrased_question_keeps_the_answer_and_says_where_it_comes_from(start):
    train, rejected, manifest, _ = augment(
        start, lambda asked: said("Reworded: " + asked.splitlines()[1][::-1])
    )
    assert [r.task.question for r in train[:3]] == [q for q, _ in QUESTIONS]
    old, new = train[0].task, train[3].task
    assert (new.answer, new.source, new.metadata["level"]) == ("7", "rephrase", "easy")
    assert new.metadata["augment"] | {"template_hash": ""} == {
        "form": "rephrase", "from": [old.id], "round": 0, "teacher": "big",
        "template": "augment/rephrase.en", "template_hash": "",
    }  # fmt: skip
    assert train[3].generation.model == "test-model" and train[3].answer.startswith("<question>")
    assert (len(train), rejected, manifest["forms"][0]["kept"]) == (6, [], 3)


def test_several_questions_are_asked_for_at_once_and_no_more_are_taken(start):
    number = iter(range(100))

    def answer(asked):
        assert "in 2 different ways" in asked
        return said(
            *(f"wholly new wording {next(number)} {'abc' * next(number)}" for _ in range(3))
        )

    train, rejected, *_ = augment(start, answer, each=2, near=None)
    assert len(train) == 3 + 6
    assert reasons(rejected) == ["more than were asked for"] * 3


def test_a_template_without_a_count_is_asked_once_for_each(start, api):
    lines = iter(f"harder {word} question" for word in "abcdef")
    train, *_ = augment(start, lambda asked: said(next(lines)), make="evolve_deeper", each=2)
    assert len(train) == 3 + 6 and len(api.received) == 6
    assert all(record.task.answer is None for record in train[3:])
    assert "level" not in train[3].task.metadata


def test_what_is_not_new_is_rejected_with_its_reason(start):
    long = (
        "A farmer who lives by the river counts all of his sheep and goats and cows on Monday, and "
        "on each of the six days that follow he sells two of the sheep and buys one more goat, so "
        "how many animals has he in the end if there were forty of them when he began, {}?"
    )
    answers = iter(
        [
            "I would rather not.",
            said(QUESTIONS[1][0].upper()),
            said(HELD.replace("counted one by one", "one by one counted")),
            said(long.format("please")),
            said(long.format("thanks")),
        ]
    )
    questions = [*QUESTIONS, ("What is 1 + 2?", "3"), ("What is 1 + 7?", "8")]
    train, rejected, manifest, lines = augment(
        start, lambda asked: next(answers), questions=questions
    )
    kinds = [reason.partition(":")[0] for reason in reasons(rejected)]
    assert kinds == ["no <question> found", "duplicate", "in the evaluation", "near duplicate"]
    assert rejected[0].answer == "I would rather not." and rejected[0].task.question == ""
    assert len(train) == 6 and train[5].task.question == long.format("please")
    assert manifest["forms"][0]["rejected"] == dict.fromkeys(kinds, 1)
    assert "rephrase: 1 new questions · rejected 4" in "\n".join(lines)


def test_what_is_near_the_evaluation_is_rejected_too(start):
    held = " ".join(f"word{i} and" for i in range(40))
    _, rejected, *_ = start(
        lambda asked: said(held + " more"), "augment",
        held=held, augment=[{"make": "rephrase", "draws": 1}],
    )  # fmt: skip
    assert re.fullmatch(r"near duplicate: of e-\w+ \(jaccard 0\.\d+\)", reasons(rejected)[0])


def test_an_answer_that_was_cut_off_says_so(start, api):
    cut = (200, {}, api.completion("<question>Anna has", finish="length"))
    _, rejected, *_ = augment(start, lambda asked: cut)
    assert reasons(rejected) == ["cut off: tags do not pair: no </question>"] * 3


def test_question_filters_see_the_new_questions(start):
    held = "Tell me: " + HELD
    train, rejected, *_ = start(
        lambda asked: said(held), "augment",
        augment=[{"make": "rephrase", "draws": 1}], filters=["overlap"],
    )  # fmt: skip
    assert len(train) == 3 and reasons(rejected)[0].startswith("overlaps evaluation: overlap ")


def test_fobar_asks_nobody_and_knows_the_answer(start, api):
    train, rejected, *_ = start(
        lambda asked: "never asked", "augment",
        questions=[(QUESTIONS[0][0], "3 + 4 = 7 #### 7")], augment=[{"make": "fobar", "each": 5}],
    )  # fmt: skip
    assert api.received == [] and rejected == []
    new = {record.task.answer: record.task.question for record in train[1:]}
    assert new["4"] == (
        "Anna has 3 apples and buys x more. How many has she?\n\n"
        "The answer to the question above is 7. What is the value of the unknown x?"
    )
    assert set(new) == {"3", "4"} and train[1].task.metadata["augment"]["teacher"] is None


def test_self_verification_has_to_keep_the_unknown(start):
    answers = iter([said("Anna has x apples; in the end 7. What is x?"), said("Anna has 7. Why?")])
    train, rejected, *_ = augment(
        start, lambda asked: next(answers), make="self_verify", questions=QUESTIONS[:2]
    )
    assert reasons(rejected) == ["the unknown is lost: x"]
    assert train[-1].task.answer == train[-1].task.metadata["augment"]["masked"]


def test_rounds_start_from_what_the_last_one_made(start):
    deeper = re.compile(r"<given>\n(.*)\n</given>", re.DOTALL)
    train, _, _, _ = augment(
        start,
        lambda asked: said(f"{deeper.search(asked)[1]} And then {len(asked)} more times?"),
        make="evolve_deeper", rounds=3, near=None, questions=QUESTIONS[:1],
    )  # fmt: skip
    chain = [record.task for record in train]
    assert [t.metadata.get("augment", {}).get("round") for t in chain] == [None, 0, 1, 2]
    assert [t.metadata["augment"]["from"] for t in chain[1:]] == [[t.id] for t in chain[:3]]


VOTE = {"samples": 5, "agree": 3, "prompt": {"template": "boxed.en"}}


def voting(*finals):
    """Evolves one question, then answers it with these in turn."""
    answers = iter(finals)

    def answer(asked):
        if "<question>" in asked:
            return said("How much is one and a half of a third?")
        return f"<think>Hm.</think>It is {next(answers)}."

    return answer


def test_the_answer_that_most_agree_on_becomes_the_reference(start, api):
    answer = voting(r"\boxed{1/2}", r"\boxed{2}", r"\boxed{0.5}", "unclear", r"\boxed{0.5}")
    train, rejected, manifest, _ = augment(
        start, answer, make="evolve_deeper", questions=QUESTIONS[:1], answer=VOTE
    )
    task = train[-1].task
    assert (task.answer, rejected) == ("0.5", [])
    lineage = task.metadata["augment"]
    assert (lineage["votes"], lineage["of"], lineage["voter"]) == (3, 5, "big")
    assert [counts["bought"] for counts in manifest["forms"][0]["counts"]] == [1, 5]


@pytest.mark.parametrize(
    ("finals", "reason"),
    [
        (["1", "1", "2", "3", "4"], "no agreement: 2 of 5"),
        (["1", "1", "2", "2", "3"], "no agreement: 2 of 5"),
        ([], "no agreement: 0 of 5"),
    ],
)
def test_without_agreement_a_question_is_rejected(start, finals, reason):
    boxes = [f"\\boxed{{{final}}}" for final in finals] or ["unclear"] * 5
    train, rejected, *_ = augment(
        start, voting(*boxes), make="evolve_deeper", questions=QUESTIONS[:1], answer=VOTE
    )
    assert len(train) == 1 and reasons(rejected) == [reason]


def test_a_rerun_buys_nothing_and_makes_the_same(start, api, tmp_path):
    def answer(asked):
        return said(f"Something else entirely about {asked.splitlines()[1][::-1]}")

    entries = {"augment": [{"make": "rephrase"}, {"make": "self_instruct", "draws": 2, "shots": 2}]}
    first = start(answer, "augment", **entries)
    bought = len(api.received)
    (tmp_path / "runs/r/augment/manifest.json").unlink()
    again = start(answer, "augment", **entries)
    assert bought == 5 and len(api.received) == bought
    assert first[2]["content"] == again[2]["content"]
    _, _, _, lines = start(answer, "augment", **entries)
    assert any("augment: done before, nothing changed" in line for line in lines)


def test_a_request_that_failed_for_good_leaves_the_stage_open(start):
    def answer(asked):
        return (400, {}, "{}") if "Anna" in asked else said("Wholly new: " + asked[9:40][::-1])

    train, _, manifest, _ = augment(start, answer)
    assert len(train) == 3 + 2 and manifest["complete"] is False
    train, _, manifest, _ = augment(start, lambda asked: said("At last: " + asked[9:40][::-1]))
    assert len(train) == 3 + 3 and manifest["complete"] is True


def test_the_generation_asks_the_new_questions_too(start, api):
    def answer(asked):
        new = "<question>" in asked
        return said("Brand-new: " + asked[9:50][::-1]) if new else "<think>x</think>\\boxed{7}"

    traces, *_ = start(answer, "augment", "generate", augment=[{"make": "rephrase"}])
    assert len(traces) == 6 and traces[3].task.metadata["augment"]["form"] == "rephrase"


# --- the stage rewrite ----------------------------------------------------------------------------

LONG = "First I think of it, then I think of it again, and so it is what it is."


def rewriting(reasoning="Plainly so.", final=None, critique="Too long."):
    """A teacher that answers the first two questions rightly, and rewrites as it is asked."""

    def answer(asked):
        if "<critique>" in asked:
            return critique if critique.startswith("<") else said(critique, tag="critique")
        if "<reasoning>" in asked:
            given = re.search(r"boxed\{(\d+)\}", asked)[0]
            return said(reasoning, tag="reasoning") + said(final or "\\" + given, tag="answer")
        right = next((a for q, a in QUESTIONS[:2] if q in asked), "wrong")
        return f"<think>{LONG}</think>\\boxed{{{right}}}"

    return answer


def rewrite(start, answer, **entry):
    return start(
        answer, "generate", "rewrite",
        rewrite=[{"make": "shorten", **entry}], filters=["think_format", "math_answer"],
    )  # fmt: skip


def test_verified_traces_are_rewritten_and_stand_behind_the_old_ones(start):
    train, rejected, manifest, _ = rewrite(start, rewriting())
    assert (len(train), rejected, manifest["passed"]) == (3 + 2, [], 2)
    old, new = train[0], train[3]
    assert (new.id, new.generation.parent) == (f"{old.id}-shorten", old.id)
    assert (new.task, new.reasoning, new.answer) == (old.task, "Plainly so.", "\\boxed{7}")
    assert new.generation.template == "rewrite/shorten.en" and old.generation.parent is None
    assert all(record.verdicts == [] for record in train)


def test_a_chain_that_did_not_get_shorter_or_longer_is_rejected(start):
    _, rejected, *_ = rewrite(start, rewriting(LONG + " Really."))
    assert {r.rejected_by.kind for r in rejected} == {"not shorter"} and len(rejected) == 2
    train, *_ = rewrite(start, rewriting(LONG + " Really."), make="lengthen")
    assert [r.reasoning for r in train[3:]] == [LONG + " Really."] * 2


def test_an_answer_without_its_tags_is_rejected(start):
    def answer(asked):
        return "Shorter!" if "<reasoning>" in asked else rewriting()(asked)

    train, rejected, manifest, _ = rewrite(start, answer)
    assert len(train) == 3 and reasons(rejected) == ["no <reasoning> found"] * 2
    assert rejected[0].answer == "Shorter!"
    assert manifest["forms"][0]["rejected"] == {"no <reasoning> found": 2}


def test_a_revision_is_given_its_critique(start, api):
    train, rejected, manifest, _ = rewrite(
        start, rewriting(critique="Mend step two."), make="revise"
    )
    assert len(train) == 5 and rejected == []
    asked = [body["messages"][-1]["content"] for body in api.received]
    revisions = [text for text in asked if "<given_critique>" in text]
    assert len(revisions) == 2 and all("Mend step two." in text for text in revisions)
    assert [counts["bought"] for counts in manifest["forms"][0]["counts"]] == [2, 2]
    train, rejected, *_ = rewrite(
        start, rewriting(critique="<critique>half"), make="revise.zh", critique="critique.zh"
    )
    assert len(train) == 3 and {r.rejected_by.kind for r in rejected} == {"tags do not pair"}


def test_new_traces_go_through_the_filters_like_the_old(start):
    def all_of(final):
        return start(
            rewriting(final=final), "generate", "rewrite",
            rewrite=[{"make": "shorten", "each": 2}], filters=["math_answer"],
        )  # fmt: skip

    train, *_ = all_of("\\boxed{30}")
    assert [r.id.rpartition("-")[2] for r in train[3:]] == ["shorten", "1"] * 2


def test_an_estimate_counts_the_new_questions_once_they_are_there(start, tmp_path):
    from synth.estimate.estimator import make_estimate

    def estimate():
        run, _ = load_run(str(tmp_path / "config.yaml"))
        return make_estimate(run, None, None, lambda line: None)

    sections = {"augment": [{"make": "fobar"}], "rewrite": [{"make": "shorten"}]}
    start(rewriting(), "tasks", **sections)
    before = estimate()
    assert before["questions"]["total"] == 3
    assert [note.split()[0] for note in before["notes"][:2]] == ["augment", "what"]
    start(rewriting(), "augment", **sections)
    after = estimate()
    assert after["questions"]["total"] == 6
    assert not any("augment" in note for note in after["notes"])


@pytest.mark.slow
def test_the_report_shows_both_stages_and_finds_nothing_out_of_date(start, tmp_path):
    from synth.report.html import write_report

    start(
        rewriting(), "augment", "generate", "rewrite", "filter",
        augment=[{"make": "fobar"}], rewrite=[{"make": "shorten"}], filters=["math_answer"],
    )  # fmt: skip
    run, _ = load_run(str(tmp_path / "config.yaml"))
    page = write_report(run).read_text()
    assert "Out of date" not in page and "The config has changed" not in page
    assert "New questions" in page and "New traces of verified ones" in page


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "entry", "says"),
    [
        ("augment", {"make": "rephrse"}, "did you mean 'augment/rephrase.en'"),
        ("augment", {"make": "rephrase", "teacher": "bigg"}, "no teacher 'bigg'; did you mean 'big'"),
        ("augment", {"make": "persona"}, "needs personas"),
        ("augment", {"make": "rephrase", "topics": ["x"]}, "leave out topics"),
        ("augment", {"make": "self_instruct"}, "how many times with draws"),
        ("augment", {"make": "topic", "topics": ["x"], "draws": 2}, "only 1 combinations"),
        ("augment", {"make": "topic", "topics": ["x"], "answer": "keep"}, "no answer to keep"),
        ("augment", {"make": "rephrase", "values": {"cout": 1}}, "did you mean 'count'"),
        ("augment", {"make": "rephrase", "answer": {"samples": 2, "agree": 3}}, "never reached"),
        ("augment", {"make": "rephrase", "answer": {"prompt": {"template": "boxd.en"}}}, "boxed.en"),
        ("augment", {"make": "rephrase", "answer": "kept"}, "it is keep, none, or"),
        ("augment", {"make": "rephrase", "answer": {"sampels": 2}}, "did you mean 'samples'"),
        ("augment", {"make": "rephrase", "answer": {"teacher": "smal"}}, "no teacher 'smal'"),
        ("rewrite", {"make": "shortn"}, "did you mean 'rewrite/shorten.en'"),
        ("rewrite", {"make": "revise", "critique": "critic"}, "critique"),
        ("rewrite", {"make": "shorten", "teacher": "x"}, "no teacher 'x'"),
    ],
)  # fmt: skip
def test_mistakes_are_named(start, section, entry, says):
    with pytest.raises(ConfigError, match=says):
        start(lambda asked: "", "augment", **{section: [entry]})


def test_the_users_own_template_is_taken(start, tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text(
        "---\ndescription: d\nversion: 1\nvariables: {question: q, level: l, manner: m}\n---\n"
        "{{ question }} {{ level }} {{ manner }}"
    )
    train, *_ = augment(
        start, lambda asked: said("As told: " + asked[::-1]), make=str(path),
        values={"manner": "politely"}, answer="keep",
    )  # fmt: skip
    assert train[3].task.answer == "7" and train[3].task.source == "mine"
    assert train[3].task.question[::-1].startswith(QUESTIONS[0][0] + " easy politely")


def test_a_form_says_what_becomes_of_the_answer():
    kept = {Augment(make=make).reference for make in ("rephrase", "translate.zh", "back_translate")}
    assert kept == {"keep"}
    assert {Augment(make=make).reference for make in ("fobar", "self_verify.zh")} == {"masked"}
    assert Augment(make="evolve_deeper").reference == "none"
    assert Rewrite(make="revise").first.name == "rewrite/critique.en"
    assert json.loads(json.dumps(Augment(make="fobar").model_dump(mode="json")))["make"] == "fobar"
