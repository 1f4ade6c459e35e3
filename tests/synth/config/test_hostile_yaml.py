"""A config that is broken or means harm gets one message with its line, and shows no key."""

import re
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.config.secret_values import key_like_names, masked, shown, shown_override
from synth.config.validate import load_run
from synth.config.yaml_file import parse_config
from synth.config.yaml_text import MAX_DEPTH
from synth.core.errors import UserError

CONFIG = """\
name: r
tasks: {train: [{source: inline, tasks: [{question: q}]}]}
teachers: {t: {kind: fake}}
generate: {prompt: {template: plain}}
"""
SECRET = "sk-abcdEFGH1234ijklMNOP5678"


def refusal(tmp_path, content, *overrides):
    path = tmp_path / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        load_run(str(path), overrides)
    return str(caught.value).replace(f"{tmp_path}/", "")


def bomb(line):
    return "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        line.format(c=c, p=p) + "\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (bomb("{c}: &{c} [*{p}, *{p}, *{p}, *{p}, *{p}, *{p}, *{p}, *{p}, *{p}]"), "aliases stand"),
        (
            "a: &a {x: 1}\n"
            + bomb("{c}: &{c} {{<<: *{p}, k{c}: [*{p}, *{p}, *{p}, *{p}, *{p}]}}")[36:],
            "c.yaml",
        ),
        ("description: " + "[" * 3000 + "]" * 3000, f"c.yaml:1: nested more than {MAX_DEPTH} deep"),
        ("description: " + "{a: " * 3000 + "1" + "}" * 3000, "c.yaml:1: nested more than"),
        ("".join(" " * n + "a:\n" for n in range(3000)), "nested more than"),
        ("".join(" " * n + "-\n" for n in range(3000)), "nested more than"),
        ("a: &a {b: *a}", "c.yaml:1: a: unknown key"),
    ],
)
def test_bombs_are_refused_soon(tmp_path, text, says):
    start = time.process_time()
    message = refusal(tmp_path, text)
    assert time.process_time() - start < 5  # a second on a machine that does nothing else
    assert says in message and len(message) < 3000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "c.yaml: a config is a mapping of keys to values; this file is empty"),
        ("# only a comment\n", "this file is empty"),
        ("- a\n", "a config is a mapping of keys to values"),
        (CONFIG + "description: a\0b\n", "c.yaml:5: not YAML: U+0000 may not stand in it"),
        (CONFIG + "train:\n\tepochs: 1\n", "c.yaml:6: not YAML"),
        (
            (CONFIG + "description: é\n").encode("latin-1"),
            "c.yaml:5: not UTF-8: it has the byte 0x",
        ),
        (
            CONFIG + "description: !!python/object/apply:os.system [echo]\n",
            "c.yaml:5: the tag !!py",
        ),
        (CONFIG + "seed: !mine 3\n", "c.yaml:5: the tag !mine means nothing"),
        (
            CONFIG + f"seed: {'9' * 5000}\n",
            "c.yaml:5: a value cannot be read: a number is too long",
        ),
        (CONFIG + 'description: "\\ud800"\n', "c.yaml:5: half of a surrogate pair"),
        (CONFIG + "---\n" + CONFIG, "another document"),
        (CONFIG + "train: {a: [1\n", "not YAML"),
        (CONFIG + "seed: 1\nseed: 2\n", "c.yaml:6: not YAML: the key 'seed' stands twice there"),
        (
            CONFIG.replace("teachers: {t: {kind: fake}}", "teachers:\n  t: {}\n  u: {}\n  t: {}"),
            "c.yaml:6: not YAML: the key 't' stands twice there",
        ),
        (
            CONFIG.replace("{prompt:", "{teachers: [t, T2], prompt:"),
            "c.yaml:4: generate.teachers.1: no teacher 'T2'",
        ),
        (
            CONFIG + "rewrite:\n  - {make: shorten.en, teacher: u}\n",
            "c.yaml:6: rewrite.0: no teacher 'u'",
        ),
    ],
)
def test_mistakes_get_one_message_with_the_line(tmp_path, content, says):
    message = refusal(tmp_path, content)
    assert says in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_of_encodings_are_read(tmp_path, encoding):
    path = tmp_path / "c.yaml"
    path.write_bytes((CONFIG + "description: é\n").encode(encoding))
    assert load_run(str(path))[0].description == "é"


def test_merge_keys_and_aliases_of_a_config_stay(tmp_path):
    shared = "{kind: fake, accuracy: &half 0.5}"
    text = CONFIG.replace("{t: {kind: fake}}", f"\n  t: &t {shared}\n  u: {{<<: *t}}")
    run, _ = load_run(str(_write(tmp_path, text)))
    assert run.teachers["u"] == {"kind": "fake", "accuracy": 0.5}


def _write(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


OPENAI = "{kind: openai, base_url: 'http://x/v1', model: m, api_key_env: KEY}"
OTHERS = ["AIzaSyA1234567890abcdefghijklmnopqrstu", "d3b07384d113edec49eaa6238ad5ff00"]


@pytest.mark.parametrize(
    "teachers",
    [
        f"{{t: {OPENAI}}}",
        *(f"{{t: {OPENAI.replace('KEY', key)}}}" for key in OTHERS),
        f"{{t: {OPENAI.replace('KEY', '[KEY]')}}}",
        f"{{t: {OPENAI.replace('KEY', '{v: KEY}')}}}",
        f"[{OPENAI}]",
        f"{{t: {OPENAI}, t: {OPENAI}}}",
        "{t: {kind: openai, api_key: KEY}}",
        "{t: {kind: openai, base_url: [KEY], model: m}}",
        "KEY",
        "{t: *KEY}",
    ],
)
def test_a_key_in_the_file_is_refused_and_never_printed(tmp_path, teachers):
    teachers = teachers.replace("KEY", SECRET)
    message = refusal(tmp_path, CONFIG.replace("{t: {kind: fake}}", teachers))
    assert not any(secret in message for secret in (SECRET, *OTHERS))
    assert "c.yaml:3" in message


def test_a_key_on_the_command_line_is_not_printed(tmp_path):
    text = CONFIG.replace("{kind: fake}", OPENAI.replace("KEY", "null"))
    for override in (f"teachers.t.api_key_env={SECRET}", f"teachers.t.nosuch={SECRET}", SECRET):
        message = refusal(tmp_path, text, override)
        assert (SECRET not in message and "command line" in message) or "override" in message


@pytest.mark.parametrize(
    "name",
    [
        "OPENAI_API_KEY",
        "my_key",
        "AZURE_OPENAI_KEY_2",
        "key",
        "DEEPSEEK_API_KEY_FOR_TEAM_2024",
        "K",
    ],
)
def test_names_of_variables_are_none(name):
    assert list(key_like_names({"teachers": {"t": {"api_key_env": name}}})) == []


def test_a_variable_that_is_set_is_a_name(monkeypatch):
    name = "d3b07384d113edec49eaa6238ad5ff00"
    entry = [{"api_key_env": name}]
    assert list(key_like_names(entry)) == [(0, "api_key_env")]
    monkeypatch.setenv("A" + name, "x")
    assert list(key_like_names([{"api_key_env": "A" + name}])) == []


@given(st.sampled_from(["sk-", "sk_live_", "hf_", "ghp_", "gsk_", "xai-"]), st.text(string.ascii_letters + string.digits, min_size=20, max_size=60))  # fmt: skip
def test_keys_of_known_providers_are_masked_wherever_they_stand(prefix, rest):
    key = prefix + rest
    assert key not in masked(f"Authorization: {key}, and more")
    assert key not in shown({"a": [{"b": key}]})
    assert key not in shown_override(f"x={key}")
    assert rest not in shown({"api_key_env": [rest]}) and rest not in shown(rest, "token")


def test_ordinary_values_are_shown():
    model = "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"
    assert shown(model) == repr(model)
    assert (
        shown_override("generate.sampling.max_tokens=many") == "generate.sampling.max_tokens=many"
    )


@given(st.text(max_size=60) | st.text("{}[]&*!:-?|>'\"#% \n\ta1", max_size=60))
def test_any_text_is_a_config_or_one_clear_refusal(text):
    try:
        source = parse_config("c.yaml", text)
    except UserError as error:
        assert re.match(r"c\.yaml(:\d+|:\?)?: ", str(error))
    else:
        assert isinstance(source.data, dict)
