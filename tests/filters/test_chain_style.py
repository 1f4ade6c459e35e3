import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import chain_style
from filters.base import Context
from synth.core.record import Record, Task

CHECK = chain_style.build(chain_style.Config(), Context())
CODE = "We check it.\n\n```python\nprint(1)\n```\nSo it is 1."


def test_a_wall_of_text_is_dropped(make, record):
    wall = "First a line.\n" + "word " * 351 + "\nAnd a last one."
    decision = make("chain_style")(record("5", wall))
    assert decision.reason == "long paragraph: paragraph_words 351, over 350"
    assert decision.evidence["paragraph"].startswith("word word")
    assert make("chain_style")(record("5", wall.replace("word word", "word\nword", 200))).keep


def test_code_is_measured(record):
    figures = CHECK(record("5", CODE))
    assert figures.values["code_blocks"] == 1
    assert figures.values["code_share"] == len("```python\nprint(1)\n```\n") / len(CODE)
    assert figures.values["paragraph_words"] == 4
    assert figures.evidence["code"] == "print(1)\n"


@pytest.mark.parametrize(
    ("reasoning", "answer", "keeps"),
    [
        (CODE, "5", False),
        ("fine", CODE, True),  # R1's rule is about the chain
        (None, CODE, False),
        (None, "", True),
        ("", CODE, True),
        ("Write `x` and ```y```.", "5", True),
        ("~~~\nx\n~~~", "5", False),
        ("  ```\nx\nno end", "5", False),
    ],
)
def test_code_in_the_chain_is_dropped(make, record, reasoning, answer, keeps):
    decision = make("chain_style")(record(answer, reasoning))
    assert decision.keep == keeps
    if not keeps:
        assert decision.reason == "code in the chain: code_blocks 1, over 0"


def test_bounds_can_be_left_out(make, record):
    assert make("chain_style", code_blocks_max=None)(record("5", CODE)).keep
    assert not make("chain_style", code_blocks_max=None, code_share_max=0.2)(record("", CODE)).keep


def test_a_chinese_character_is_a_word(record):
    assert CHECK(record("5", "所以答案是五。")).values["paragraph_words"] == 6


def test_a_fence_within_code_closes_only_when_bare(record):
    values = CHECK(record("", "```a\n```b\nx\n```\ny\n```\nz\n```")).values
    assert values["code_blocks"] == 2


@given(st.text(alphabet="`~\n\r a字\0\ud800\u2028"))
def test_any_text_has_its_figures(text):
    values = CHECK(Record("r", Task("t", "q"), [], text, "")).values
    assert 0 <= values["code_share"] <= 1
    assert values["paragraph_words"] <= len(text)


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["```\n", "`", "~", "a ", " ", "\n", "字", "```a\n"])
def test_time_is_linear(record, piece):
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    CHECK(record("", text))
    assert time.process_time() - start < 5


def test_of_real_traces_those_with_code_are_dropped(make, record, rows):
    check = make("chain_style")
    traces = {
        f"{row['idx']}-{number}": text
        for row in rows("math-cot-100.jsonl")
        for number, text in enumerate(row["code"])
    }
    dropped = {name for name, text in traces.items() if not check(record(text)).keep}
    assert dropped == {"55-1", "55-3", "55-5", "55-6", "55-7"}
    longest = max(CHECK(record(text)).values["paragraph_words"] for text in traces.values())
    solutions = [CHECK(record(row["solution"])).values for row in rows("math500.jsonl")]
    assert (longest, max(values["paragraph_words"] for values in solutions)) == (171, 328)
    assert not any(values["code_blocks"] for values in solutions)
