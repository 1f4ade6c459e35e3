"""Headers and query parameters of teachers: sent, part of the identity, and no secret anywhere."""

import pytest
from pydantic import ValidationError

from synth.core.errors import UserError
from synth.teachers import openai
from tests.helpers.dialect_server import DialectServer
from tests.helpers.teachers import ask, build

ANSWER = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}
SECRET = "sk-abcdefghijklmnop1234"


def test_headers_and_query_are_sent_as_azure_and_gateways_want_them(monkeypatch):
    monkeypatch.setenv("AZURE_KEY", SECRET)
    with DialectServer(lambda call: (200, {}, ANSWER)) as server:
        teacher = build(
            "openai", f"{server.url}/openai/deployments/d", query={"api-version": "2024-10-21"},
            headers={"X-Title": "mine"}, headers_env={"api-key": "AZURE_KEY"},
        )  # fmt: skip
        ask(teacher)
    (call,) = server.calls
    assert call.path == "/openai/deployments/d/chat/completions"
    assert call.query == {"api-version": "2024-10-21"}
    assert (call.headers["X-Title"], call.headers["api-key"]) == ("mine", SECRET)
    assert "Authorization" not in call.headers
    assert teacher.identity["query"] == {"api-version": "2024-10-21"}
    assert teacher.identity["headers"] == {"x-title": "mine"}
    assert SECRET not in str(teacher.identity)


def test_a_teacher_without_them_has_the_identity_of_before():
    teacher = openai.build(openai.Config(model="m", base_url="http://h/v1/", stream=True), "t")
    assert teacher.identity == {"kind": "openai", "base_url": "http://h/v1", "model": "m"}


def test_a_secret_that_the_server_echoes_is_in_no_message(monkeypatch):
    monkeypatch.setenv("GATE_KEY", SECRET)
    refused = {"error": {"message": f"bad key {SECRET}"}}
    with (
        DialectServer(lambda call: (400, {}, refused)) as server,
        pytest.raises(Exception, match=r"bad key \*\*\*") as caught,
    ):
        ask(build("openai", server.url, headers_env={"x-gate": "GATE_KEY"}))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Authorization": "Bearer something"}},
        {"headers": {"X-Api-Key": "abc"}},
        {"headers": {"X-Gateway": SECRET}},
        {"headers": {"X-Gateway": "0123456789abcdef0123456789abcdef"}},
        {"query": {"key": "abc"}},
        {"query": {"subscription-key": "abc"}},
        {"headers_env": {"api-key": SECRET}},
        {"headers_env": {"api-key": "a" * 16 + "1" * 16}},
    ],
)
def test_a_secret_in_the_config_is_refused_and_not_printed(options, distill_in_process):
    said = distill_in_process(options)
    assert "environment variable" in said
    for mapping in options.values():
        for value in mapping.values():
            assert value not in said


@pytest.fixture
def distill_in_process(tmp_path):
    from synth.config.validate import load_run

    def problems(options):
        teacher = {"kind": "openai", "model": "m", **options}
        config = {
            "name": "r",
            "tasks": {"train": [{"source": "inline", "tasks": [{"question": "q", "answer": 1}]}]},
            "teachers": {"t": teacher},
            "generate": {"prompt": {"template": "plain"}},
            "filters": ["truncated"],
        }
        with pytest.raises(UserError) as caught:
            load_run(config)
        return str(caught.value)

    return problems


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "a\r\nX-B: b"},
        {"X A": "a"},
        {"Content-Length": "3"},
        {"": "a"},
        {"X-A:": "a"},
    ],
)
def test_headers_that_cannot_be_sent_are_refused(headers):
    with pytest.raises(ValidationError):
        openai.Config(model="m", headers=headers)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP-Referer", "https://example.org/my-project"), ("X-Title", "Distillation of maths"),
        ("anthropic-beta", "context-1m-2025-08-07"), ("OpenAI-Organization", "org-123"),
        ("X-Max-Tokens", "100"), ("X-Author", "me"), ("x-portkey-provider", "openai"),
        ("X-Tokenizer", "o200k"), ("helicone-cache-enabled", "true"),
    ],
)  # fmt: skip
def test_plain_headers_are_taken(name, value):
    assert openai.Config(model="m", headers={name: value}).headers == {name: value}


def test_a_date_of_yaml_is_a_text_in_the_query():
    import datetime

    config = openai.Config(model="m", query={"api-version": datetime.date(2024, 10, 21), "n": 1})
    assert config.query == {"api-version": "2024-10-21", "n": "1"}


@pytest.mark.parametrize("value", ["", " ", "a\tb", "schlüssel"])
def test_a_variable_that_is_not_set_or_unfit_is_said(monkeypatch, value):
    monkeypatch.setenv("GATE_KEY", value)
    config = openai.Config(model="m", headers_env={"x-gate": "GATE_KEY"})
    (message,) = openai.check(config)
    assert "x-gate" in message
    assert "GATE_KEY" in message
    with pytest.raises(UserError, match="GATE_KEY"):
        openai.build(config, "t")
