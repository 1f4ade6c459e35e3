import json
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters._workers.json_schema import last_json, parse
from filters.json_schema import Config

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
GOOD = '{"name": "Ada", "age": 36}'
ITSELF = {"$ref": "#"}
LIST = {
    "$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}},
    "$ref": "#/$defs/n",
}


@pytest.fixture(scope="module")
def check():
    from filters import json_schema
    from filters.base import Context

    made = json_schema.build(Config(timeout=1), Context())
    yield made
    made.close()


def judge(check, record, answer, schema=PERSON):
    trace = record(answer)
    trace.task.metadata = {"schema": schema}
    return check(trace)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (GOOD, "whole answer"),
        (f"\n {GOOD}\n", "whole answer"),
        (f"Here:\n```json\n{GOOD}\n```\nDone.", "code block"),
        (f"```\n{GOOD}\n```", "code block"),
        (f"```json\n{{}}\n```\nno, rather\n```json\n{GOOD}\n```", "code block"),
        (f"```json\n{GOOD}", "code block"),
        (f"I think {GOOD} is it.", "in the text"),
        (f"Not {{}} or {{x}} but {GOOD}", "in the text"),
        ('{"name": "{\\"x\\": 1}"}', "whole answer"),
    ],
)
def test_valid(check, record, answer, found):
    for schema in (PERSON, json.dumps(PERSON)):
        decision = judge(check, record, answer, schema)
        assert decision.keep is True and decision.evidence == {"json": found}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('{"age": 3}', "breaks the schema: 'name' is a required property"),
        ('{"name": "x", "age": -1}', "breaks the schema: -1 is less than the minimum of 0"),
        ('{"name": "x", "age": "3"}', "breaks the schema: '3' is not of type 'integer'"),
        ("[1]", "breaks the schema: [1] is not of type 'object'"),
        ("3", "breaks the schema: 3 is not of type 'object'"),
        ("", "no JSON: the answer is empty"),
        ("Sorry, no.", "no JSON: no JSON in the answer"),
        ('{"name": "x"', "no JSON: Expecting ',' delimiter at character 12"),
        ("{'name': 'x'}", "no JSON: Expecting property name enclosed in double quotes at character 1"),
        ('{"name": "x", "name": "y"}', "no JSON: the key 'name' stands there twice"),
        ('{"name": "x", "age": NaN}', "no JSON: NaN is no JSON"),
        ('so {"name": "x", "age": Infinity}', "no JSON: Infinity is no JSON"),
    ],
)  # fmt: skip
def test_invalid(check, record, answer, reason):
    decision = judge(check, record, answer)
    assert decision.keep is False and decision.reason == reason


def test_the_evidence_is_the_place(check, record):
    schema = {"properties": {"a": {"items": {"type": "string"}}}}
    assert judge(check, record, '{"a": ["x", 2]}', schema).evidence == {
        "json": "whole answer",
        "at": "a/1",
    }


@pytest.mark.parametrize(
    ("answer", "schema", "why"),
    [
        (GOOD, None, "no schema"),
        (GOOD, "{", "the schema in the metadata is no JSON"),
        (GOOD, 3, "the schema is no object"),
        (GOOD, {"type": "strin"}, "the schema is none"),
        (GOOD, {"properties": 3}, "the schema is none"),
        (GOOD, ITSELF, "the schema or the JSON is nested too deep"),
        ('{"next":' * 20_000 + "{}" + "}" * 20_000, LIST, "the JSON is nested too deep"),
        (GOOD, {"$ref": "#/$defs/none"}, "the schema refers to something outside it"),
        (GOOD, {"$ref": "file:///etc/passwd"}, "the schema refers to something outside it"),
        (GOOD, {"properties": {"name": {"pattern": "("}}}, "the schema"),
        ('{"name": "%s!"}' % ("a" * 60), {"properties": {"name": {"pattern": "^(a+)+$"}}}, "timed out after 1 s"),
        (str(list(range(60_000))), {"uniqueItems": True, "items": {"anyOf": [{"type": "string"}] * 2_000}}, "timed out"),
    ],
)  # fmt: skip
def test_undecidable_is_not_wrong(check, record, answer, schema, why):
    start = time.perf_counter()
    decision = judge(check, record, answer, schema)
    assert decision.keep is None, decision
    assert decision.reason.startswith(f"cannot tell: {why}")
    assert time.perf_counter() - start < 8


def test_a_schema_that_refers_to_itself_with_an_end_is_followed(check, record):
    deep = '{"next":' * 20 + "{}" + "}" * 20
    assert judge(check, record, deep, LIST).keep is True
    assert judge(check, record, '{"next": {"next": 3}}', LIST).keep is False


def test_nothing_is_fetched(check, record):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        port = server.getsockname()[1]
        for key in ("$ref", "$schema", "$dynamicRef"):
            judge(check, record, GOOD, {key: f"http://127.0.0.1:{port}/s.json"})
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_configs_schema_goes_before(make, record):
    trace = record(GOOD)
    trace.task.metadata = {"schema": {"type": "array"}}
    assert make("json_schema", schema=PERSON)(trace).keep
    assert make("json_schema")(trace).keep is False


@pytest.mark.parametrize(
    "schema", [{"type": "strin"}, {"$ref": "#"}, {"$ref": "http://127.0.0.1:9/x"}]
)
def test_a_schema_that_cannot_work_is_the_users_mistake(schema):
    with pytest.raises(ValidationError):
        Config(schema=schema)


@pytest.mark.parametrize(
    "answer",
    ["{" * 300_000, '{"a":' * 100_000, "[" * 300_000, '{"a":[1,{' * 50_000, "```\n" * 100_000,
     '{"":[' + "1," * 400_000, "\x00\ud800", "9" * 500_000, '{"a":"' + "x" * 1_000_000, "{}" * 300_000],
)  # fmt: skip
def test_hostile_answers_take_no_time(check, record, answer):
    start = time.perf_counter()
    judge(check, record, answer, {"type": "object"})
    assert time.perf_counter() - start < 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=9,
)


@given(
    st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.text(alphabet="ab \n.", max_size=20)
)
def test_every_object_is_found_among_words(value, around):
    text = json.dumps(value)
    assert parse(text) == value
    assert last_json(f"{around}{text}{around}")[0] == value
    assert last_json(f"{around}\n```json\n{text}\n```{around}")[0] == value


@given(st.text(alphabet='{}[]":,\\` \njson0159', max_size=80))
def test_no_text_breaks_the_reader(text):
    try:
        last_json(text)
    except ValueError as error:
        assert str(error)
