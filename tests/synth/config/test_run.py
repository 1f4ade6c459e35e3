"""Every mistake at once, each with its line and the nearest right name."""

import importlib.util
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.config.run import stages_of
from synth.config.schema import json_schema
from synth.config.validate import load_run, machine_problems
from synth.config.yaml_file import config_names, parse_config, read_config
from synth.core.errors import ConfigError, UserError
from synth.core.installation import install_command
from synth.core.prompts import shipped

SMALL = """\
name: small
tasks:
  train:
    - source: inline
      tasks: [{question: "1+1?", answer: 2}]
teachers:
  made-up: {kind: fake}
generate:
  prompt: {template: plain}
"""

TEN_MISTAKES = """\
name: "not a / name"
sed: 1
tasks:
  train:
    - source: jsonl
      path: nowhere.jsonl
    - source: jsonlines
teachers:
  big:
    kind: opnai
  small:
    kind: fake
    accuracy: 1.5
generate:
  prompt:
    template: boxd.en
  sampling:
    temperatur: 0.7
    max_tokens: many
  concurrency: 0
filters:
  - truncatd
student:
  model: some/model
  prompt:
    template: boxed.en
    values: {exampels: []}
"""


def problems(text, write_config, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load_run(str(write_config(text, "bad.yaml")), overrides)
    return [str(problem) for problem in caught.value.problems]


def test_ten_mistakes_give_their_messages_with_lines(write_config):
    found = problems(TEN_MISTAKES, write_config)
    text = "\n".join(found)
    expected = [
        (1, "name", "match pattern"),
        (2, "sed", "did you mean 'seed'?"),
        (6, "tasks.train.0.path", "nowhere.jsonl"),
        (7, "tasks.train.1", "did you mean 'jsonl'?"),
        (9, "teachers.big", "did you mean 'openai'?"),
        (13, "teachers.small.accuracy", "1.5"),
        (16, "generate.prompt.template", "did you mean 'boxed.en'?"),
        (18, "generate.sampling.temperatur", "did you mean 'temperature'?"),
        (19, "generate.sampling.max_tokens", "'many'"),
        (20, "generate.concurrency", "0"),
        (22, "filters.0", "did you mean 'truncated'?"),
        (27, "student.prompt.values.exampels", "exampels"),
    ]
    for line, key, says in expected:
        mine = [p for p in found if f"bad.yaml:{line}: {key}: " in p]
        assert len(mine) == 1, f"{key} at line {line} in:\n{text}"
        assert says in mine[0]
    assert len(found) == len(expected), text


def test_validate_prints_all_of_them_and_exits_with_2(distill, write_config):
    done = distill("validate", write_config(TEN_MISTAKES, "bad.yaml"))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 12
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", config_names())
def test_every_shipped_config_loads(name):
    run, _ = load_run(name)
    assert stages_of(run)[0] == ("import" if run.tasks is None else "tasks")


def test_the_schema_in_configs_is_the_schema():
    path = shipped("configs") / "schema.json"
    assert json.loads(path.read_text()) == json_schema(), (
        "make it anew: distill schema > configs/schema.json"
    )


@pytest.mark.parametrize("name", config_names())
def test_every_shipped_config_names_the_schema_for_editors(name):
    assert (
        "$schema=schema.json" in (shipped("configs") / f"{name}.yaml").read_text().splitlines()[0]
    )


def test_the_config_that_the_readme_explains_is_one(tmp_path, monkeypatch, write_config):
    text = (Path(__file__).resolve().parents[3] / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "questions.jsonl").touch()
    run, _ = load_run(str(write_config(text.split("```yaml\n")[1].split("```")[0])))
    assert stages_of(run) == ["tasks", "generate", "filter", "train", "evaluate"]


def test_overrides_are_yaml_and_reach_into_lists(write_config):
    path = str(write_config(SMALL))
    run, _ = load_run(
        path, ["seed=5", "generate.sampling.temperature=1e-1", "tasks.train.0.limit=1", "runs=x"]
    )
    assert run.seed == 5
    assert run.generate.sampling.temperature == 0.1
    assert run.tasks.train[0]["limit"] == 1
    assert str(run.folder) == "x/small"


@pytest.mark.parametrize(
    "override",
    [
        "filters.0.length.tokens_max=9",
        "filters.length.tokens_max=9",
        "filters.length={tokens_max: 9}",
    ],
)
def test_an_override_reaches_a_filter_by_its_number_and_by_its_name(write_config, override):
    for entry in ("length", "length: {action: tag}"):
        text = f"{SMALL}\nfilters:\n  - {entry}\n  - truncated\n"
        run, _ = load_run(str(write_config(text)), [override])
        assert run.filters[0]["length"]["tokens_max"] == 9 and run.filters[1] == "truncated"
        with pytest.raises(UserError, match="did you mean 'length'"):
            load_run(str(write_config(text)), ["filters.lenght.tokens_max=9"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "dotted.key=value"),
        ("tasks.train.9.limit=1", "has 1 items"),
        ("name.x=1", "is a value"),
        ("seed=[", "not YAML"),
    ],
)
def test_overrides_that_fit_nowhere(override, says, write_config):
    with pytest.raises(UserError, match=says):
        load_run(str(write_config(SMALL)), [override])


def test_a_mistake_in_an_override_names_the_override(write_config):
    found = problems(SMALL, write_config, ["generate.samples.max=none", "generate.sampels.max=2"])
    assert any("command line (generate.samples.max=none)" in p for p in found)
    assert any("command line" in p and "did you mean 'samples'?" in p for p in found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [", "1: not YAML|2: not YAML"),
        ("- a\n- b\n", "a mapping"),
        ("name: a\nname: b\n", "not YAML"),
        ("", "a mapping"),
    ],
)
def test_what_is_no_config(text, says):
    with pytest.raises(UserError, match=says):
        parse_config("x.yaml", text)


def test_an_unknown_config_names_the_nearest():
    with pytest.raises(UserError, match="did you mean the shipped config 'quickstart'"):
        read_config("quikstart")


def test_off_and_no_stay_words():
    assert parse_config("x", "a: off\nb: no\nc: 1e-5\n").data == {"a": "off", "b": "no", "c": 1e-5}


def test_until_verified_beyond_max_is_refused(write_config):
    text = SMALL + "  samples: {max: 2, until_verified: 3}\n"
    assert "never reached" in problems(text, write_config)[0]


def test_sections_that_need_others(write_config):
    assert any(
        "needs the section student" in p for p in problems(SMALL + "train: {}\n", write_config)
    )
    text = SMALL.replace("  made-up: {kind: fake}", "  {}").replace(
        "teachers:\n  {}", "teachers: {}"
    )
    assert any("needs the section teachers" in p for p in problems(text, write_config))


def test_a_missing_key_is_the_machines_lack_not_the_configs_mistake(write_config, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    text = SMALL.replace("{kind: fake}", "{kind: openai, model: m, api_key_env: NO_SUCH_KEY}")
    run, _ = load_run(str(write_config(text)))
    assert any("NO_SUCH_KEY" in lack for lack in machine_problems(run))
    monkeypatch.setenv("NO_SUCH_KEY", "secret")
    assert not machine_problems(run)


def test_packages_that_a_training_lacks_are_told_before_anything_is_bought(
    write_config, monkeypatch
):
    absent, find = {"peft", "bitsandbytes", "wandb", "liger_kernel"}, importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in absent else find(n))
    lora = "lora: {quantization: 4bit}"
    text = (
        SMALL
        + f"""student: {{model: x, prompt: {{template: plain}}}}
chain:
  big:
    student: {{model: x, prompt: {{template: plain}}}}
    train: {{{lora}, report_to: [wandb]}}
train: {{liger: true}}
"""
    )
    lacks = machine_problems(load_run(str(write_config(text)))[0])
    assert lacks == [
        f"training needs the package peft: {install_command(extra='train')}",
        f"train.report_to needs the package wandb: {install_command(extra='trackers')}",
        "train.lora.quantization: 4bit needs the package bitsandbytes: "
        f"{install_command(extra='qlora')}",
        f"train.liger needs the package liger-kernel: {install_command('liger-kernel')}",
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcdef"), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(["name", "tasks", "teachers", "generate", "filters", "x"]), json_values
    )
)
def test_whatever_a_config_holds_it_gives_messages_not_crashes(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("c") / "c.yaml"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError):
        load_run(str(path))
