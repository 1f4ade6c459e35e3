import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import language
from filters._text.languages import LANGUAGES, likeliest, script_of
from filters.base import Context
from synth.core.record import Record, Task

QUESTION = "How many eggs does the farmer sell in a week if the hens lay three each day?"
CHAIN = (
    "The hens lay three eggs each day, so in a week there are $3 \\cdot 7$ of them. "
    "We have to take away the ones that the farmer eats. {} Therefore the number is 21."
)
ZH_QUESTION = "农夫的母鸡每天下三个鸡蛋，一个星期一共下多少个鸡蛋？"
ZH_CHAIN = "母鸡每天下三个鸡蛋，所以一个星期下 $3 \\times 7$ 个。{}答案是21个。"

FOREIGN = {
    "fr": "Donc le fermier vend vingt et un œufs par semaine.",
    "de": "Also verkauft der Bauer einundzwanzig Eier in der Woche.",
    "es": "Por lo tanto, el granjero vende veintiún huevos por semana.",
    "ru": "Значит, фермер продаёт двадцать одно яйцо.",
    "ar": "إذن يبيع المزارع إحدى وعشرين بيضة.",
    "ja": "したがって、農家は卵を売ります。",
    "ko": "따라서 농부는 달걀을 팝니다.",
    "th": "ดังนั้นชาวนาขายไข่",
    "hi": "इसलिए किसान अंडे बेचता है।",
    "zh": "所以",
}


@pytest.mark.parametrize("code", FOREIGN)
def test_one_foreign_sentence_in_a_chain_is_found(make, record, code):
    text = CHAIN.format(FOREIGN[code])
    decision = make("language")(record("21", text, question=QUESTION))
    assert decision.keep is False
    assert decision.reason.startswith("mixed languages: mixed 1")
    (stretch,) = decision.evidence["stretches"]
    assert stretch["part"] == "reasoning"
    assert FOREIGN[code].strip("。.।")[:40] in text[stretch["start"] : stretch["end"]]
    assert stretch["text"][:5] in text


@pytest.mark.parametrize(
    "words",
    [
        "",
        "Let α, β and Δx be small, and θ an angle; ℵ and ∑ are signs.",
        "Then François Viète and Évariste Galois, or L'Hôpital, help us.",
        "By Cauchy–Schwarz and Jensen it is at least $\\text{всё}$ of it.",
        "Then `для` is code, and so is\n```\n所以 答案\n```\nwhich ends.",
        "Alice, Bob, Charlie, Dominique, François, Giovanni, Heinrich, Isabella and Juan.",
        "numbers = [int(x) for x in line.split(',') if x.isdigit()]",
        "Ans: 12 km/h, 3 kg; vs. 5%.",
    ],
)
def test_what_is_english_passes(make, record, words):
    decision = make("language")(record("21", CHAIN.format(words), question=QUESTION))
    assert decision.keep is True
    assert decision.evidence["expected"] == ["en"]


@pytest.mark.parametrize(
    "words",
    ["", "设 x 为 AB 的长度，sin cos tan 已知。", "用 Python 和 NumPy 计算 gcd(a, b)。", "km/h"],
)
def test_chinese_mathematics_passes(make, record, words):
    text = ZH_CHAIN.format(words)
    assert make("language")(record("21个", text, question=ZH_QUESTION)).keep is True


@pytest.mark.parametrize("words", ["so the answer is 21。", "Wait, let me check that again. "])
def test_english_in_a_chinese_chain_is_found(make, record, words):
    decision = make("language")(record("21", ZH_CHAIN.format(words), question=ZH_QUESTION))
    assert decision.reason.startswith("mixed languages")


def test_words_of_the_question_may_be_quoted(make, record):
    question = "What does the Chinese word 鸡蛋 mean, and the French sentence 'je vends des œufs'?"
    chain = (
        "The word 鸡蛋 means egg. The sentence is: 'Je vends des œufs'? It says that I sell eggs."
    )
    assert make("language")(record("egg", chain, question=question)).keep is True
    other = make("language")(record("egg", chain.replace("鸡蛋", "所以"), question=question))
    assert other.evidence["stretches"][0]["text"] == "所以"


def test_a_chain_in_another_language_than_its_question(make, record):
    decision = make("language")(record("21", ZH_CHAIN.format(""), question=QUESTION))
    assert decision.reason.startswith("reasoning in another language: reasoning ")
    assert decision.score > 0.9
    answer = make("language")(record(FOREIGN["de"], CHAIN.format(""), question=QUESTION))
    assert answer.reason.startswith("answer in another language: answer 1, over 0.5")
    assert make("language", parts=["reasoning"])(
        record(FOREIGN["de"], CHAIN.format(""), question=QUESTION)
    ).keep


def test_expected_may_be_fixed_or_several(make, record):
    trace = record("21", CHAIN.format(FOREIGN["fr"]), question=QUESTION)
    assert make("language", expected=["en", "fr"])(trace).keep is True
    assert make("language", expected="fr")(trace).reason.startswith("reasoning in another")
    for wrong in ("english", [], "xx", ["same_as_question"]):
        with pytest.raises(ValueError, match=r"unknown language|at least one"):
            language.Config(expected=wrong)


def test_without_words_in_the_question_the_trace_is_held_to_itself(make, record):
    check = make("language")
    assert check(record("21", ZH_CHAIN.format(""), question="$3 \\cdot 7$")).keep is True
    mixed = check(record("21", CHAIN.format(FOREIGN["ru"]), question="$3 \\cdot 7$"))
    assert mixed.reason.startswith("mixed languages")
    nothing = check(record("21", None, question="3+7"))
    assert (nothing.keep, nothing.score, nothing.evidence) == (True, None, None)


def test_the_share_is_that_of_the_words():
    trace = Record("r", Task("t", QUESTION), [], "We have 所以 of it, and 答案 is this", "")
    figures = language.build(language.Config(), Context())(trace)
    assert figures.values["reasoning"] == pytest.approx(4 / 11)
    assert figures.values["mixed"] == 2
    assert figures.values["answer"] is None


def test_scripts_and_codes_agree():
    assert script_of("答えは5です") == "Kana"
    assert script_of("解：设x") == "Han"
    assert script_of("12 + 3") is None
    assert LANGUAGES["ja"] == {"Han", "Kana"}
    assert LANGUAGES["sr"] == {"Cyrillic", "Latin"}
    assert likeliest("Donc la réponse est égale à douze.")[0] == "fr"


def test_no_real_trace_in_its_own_language_is_dropped(make, record, rows):
    check = make("language")
    chains = [(r["question"], text) for r in rows("math-cot-100.jsonl") for text in r["code"]]
    found = [d for q, text in chains if not (d := check(record(text, question=q))).keep]
    # Three end in garbage of many scripts.
    assert len(found) == 3
    assert all(d.score > 200 for d in found)
    for row in rows("cmath-test.jsonl"):
        assert check(record(row["answer"], row["question"], question=row["question"])).keep


@given(st.text(), st.text())
def test_any_text_has_figures(question, text):
    trace = Record("r", Task("t", question), [], text, text)
    values = language.build(language.Config(), Context())(trace).values
    assert all(values[part] is None or 0 <= values[part] <= 1 for part in ("reasoning", "answer"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "字",
        "字 ",
        "a 字",
        "я, ",
        "ab, ",
        "x\n",
        "\u202e",
        "\x00",
        "\ud800",
        "Δ",
        "$",
        "Donc la réponse. ",
    ],
)
def test_time_is_bounded(make, piece):
    check = make("language")
    trace = Record(
        "r", Task("t", QUESTION), [], piece * (300_000 // len(piece)), "所以" + "b" * 300_000
    )
    start = time.process_time()
    decision = check(trace)
    assert decision.keep is False
    assert time.process_time() - start < 10


def test_a_long_question_costs_no_more_than_its_length(make):
    question = QUESTION + " word" * 200_000
    start = time.process_time()
    decision = make("language")(Record("r", Task("t", question), [], "a 字b " * 60_000, ""))
    assert decision.keep is False
    assert time.process_time() - start < 10
