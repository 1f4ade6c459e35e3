"""What verdicts on code are made of: layouts of tests, fences, comparing, the wire."""

import contextlib
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters._code import jobs as _code_jobs
from filters._code.blocks import blocks, choose
from filters._code.compare import same_text, same_value
from filters._code.inside.wire import Unreadable, decode, encode
from filters._code.test_formats import Either, find
from tests.helpers.code_records import CALL, HUMANEVAL, SUM


@pytest.mark.parametrize(
    ("metadata", "kind", "cases", "function"),
    [
        (SUM, "stdin", [("1 2\n", "3\n"), ("3 4\n", "7\n")], None),
        ({"test_cases": {"input": ["1"], "output": ["2"]}}, "stdin", [("1", "2")], None),
        ({"tests": '[{"input": "1", "output": "2"}]'}, "stdin", [("1", "2")], None),
        ({"official_tests": [{"input": "1", "output": "2"}]}, "stdin", [("1", "2")], None),
        (
            {
                "public_tests": {"input": ["1"], "output": ["2"]},
                "private_tests": {"input": ["3"], "output": ["4"]},
            },
            "stdin",
            [("1", "2"), ("3", "4")],
            None,
        ),
        ({"input_output": {"inputs": [["1", "2"]], "outputs": [["3"]]}}, "stdin", [("1\n2", "3")], None),
        (CALL, "calls", [([1, 2], ([3], 3)), ([3, 4], ([7], 7))], "add"),
        (
            {"test_cases": [{"input": "[1]\n2", "output": "3", "testtype": "functional"}], "func_name": "g"},
            "calls",
            [([[1], 2], 3)],
            "g",
        ),
        (
            {"verification_info": {"language": "python", "test_cases": [{"fn_name": "h", "input": [1], "output": 2}]}},
            "calls",
            [([1], 2)],
            "h",
        ),
    ],
)  # fmt: skip
def test_layouts_of_pairs(metadata, kind, cases, function):
    tests = find(metadata, "q")
    assert (tests.kind, tests.cases, tests.function) == (kind, cases, function)


@pytest.mark.parametrize(
    ("metadata", "pieces", "function"),
    [
        ({"test_list": ["assert a", "assert b"]}, ["assert a", "assert b"], None),
        ({"test_list": ["assert a"], "test_setup_code": "import x"}, ["import x", "assert a"], None),
        ({"test_list": ["assert a"], "test_imports": ["import x", "import y"]}, ["import x\nimport y", "assert a"], None),
        (HUMANEVAL, [HUMANEVAL["test"]], "f"),
        ({"tests": "assert a\nassert b"}, ["assert a\nassert b"], None),
    ],
)  # fmt: skip
def test_layouts_of_assertions(metadata, pieces, function):
    tests = find(metadata, "q")
    assert (tests.kind, tests.pieces, tests.function) == ("asserts", pieces, function)


def test_a_field_can_be_named():
    assert find({"mine": ["assert a"], "tests": ["assert b"]}, "q", "mine").pieces == ["assert a"]
    assert find({"tests": ["assert b"]}, "q", "mine") is None


def test_code_to_complete_may_stand_in_the_question():
    metadata = {name: HUMANEVAL[name] for name in ("test", "entry_point")}
    assert find(metadata, HUMANEVAL["prompt"]).prompt == HUMANEVAL["prompt"]
    assert find(metadata, "Write f.").prompt is None


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        ("1\n2\n", "1\n2", True), ("1  \n2\n\n", "1\n2\n", True), ("1\n", "1\n2\n3\n", False),
        ("1\n2\n3\n", "1\n", False), ("", "1", False), ("1 2", "1 2 3", False), ("", "", True),
        ("0.33333333", "0.33333334", True), ("0.333", "0.33333334", False), ("1000001", "1000000", False),
        ("3.1", "3.10", True), ("3", "3.0", True), ("inf", "1e999", False), ("nan", "1.0", False),
        ("YES", "yes", False), ("a.b", "a.c", False), ("\n1", "1", False),
    ],
)  # fmt: skip
def test_outputs_are_compared_whole(got, expected, same):
    assert same_text(got, expected, 1e-6) is same


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        ((1, 2), [1, 2], True), ([1, 2], [1, 2, 3], False), ([1], 1, False), ({1: "a"}, {"1": "a"}, True),
        ({"a": (1,)}, {"a": [1]}, True), (0.1 + 0.2, 0.3, True), (1, 1.0, True), (2**70, 2**70, True),
        (2**70, 2**70 + 1, False), (1.0, 10**400, False), ({1, 2}, [1, 2], False), (None, None, True),
        ("1", 1, False), (3, Either(([3], 3)), True), ([3], Either(([3], 3)), True), (4, Either(([3], 3)), False),
        (float("nan"), 1.0, False), ({}, [], False), (True, 1, True),
    ],
)  # fmt: skip
def test_results_are_compared_as_json(got, expected, same):
    assert same_value(encode(got, None), expected, 1e-6) is same


def test_which_block_counts():
    answer = "```python\na\n```\n```cpp\nlonger than all\n```\n```py\nbbb\n```\n```\nc\n```\n```python\nd\n```"
    found = blocks(answer)
    tags = _code_jobs.LANGUAGES["python"].tags
    assert [choose(found, tags, which) for which in ("first", "last", "longest")] == [
        "a\n",
        "d\n",
        "bbb\n",
    ]
    assert choose(blocks("```\nx\n```"), tags, "last") == "x\n"
    assert choose(blocks("```js\nx\n```"), tags, "last") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("````md\n```py\nx\n```\n````", [("md", "```py\nx\n```\n")]),
        ("~~~ py\nx\n~~~", [("py", "x\n")]),
        ("```python\ncut off", [("python", "cut off")]),
        ("  ```c++ title\nx\n  ```", [("c++", "x\n")]),
        ("no `code` here", []),
    ],
)
def test_fences(text, expected):
    assert blocks(text) == expected


@pytest.mark.parametrize(
    "text", ["```" * 300_000, "`" * 10**6, "\n```\n" * 200_000, " " * 10**6, "~~~ \t" * 200_000]
)
def test_fences_are_found_in_linear_time(text):  # fmt: skip
    start = time.process_time()
    blocks(text)
    assert time.process_time() - start < 3


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.fractions() | st.decimals(allow_nan=False) | st.dates() | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner)
    | st.frozensets(st.integers()) | st.sets(st.text()),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_values_survive_the_wire(value):
    def refuse(*what):
        raise AssertionError(what)

    sent = json.loads(json.dumps(encode(value, refuse)))
    got = decode(sent, refuse)
    assert got == value
    assert type(got) is type(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner)
    | st.dictionaries(
        st.sampled_from(["dict", "tuple", "set", "int", "complex", "bytes", "range", "builtin", "built"]) | st.text(),
        inner,
    ),
)  # fmt: skip


@settings(max_examples=100)
@given(JSON)
def test_rubbish_on_the_wire_is_unreadable_and_nothing_else(sent):
    def refuse(name, content):
        raise Unreadable(name)

    with contextlib.suppress(Unreadable):
        decode(sent, refuse)
