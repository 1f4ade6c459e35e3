"""Prices: the config's own, else a dated default that says where it comes from."""

import datetime

import pytest

from synth.config.plugin_entries import plugin_config
from synth.config.validate import load_run, machine_warnings
from synth.config.yaml_file import config_names
from synth.core.usage import Price
from synth.teachers import fake, openai, openai_batch
from synth.teachers._pricing import default_lines, default_of, defaults, end_of, ends, price_of

TODAY = datetime.date(2026, 11, 24)
ENTRIES = [
    (host, model, known) for host, models in defaults().items() for model, known in models.items()
]


@pytest.mark.parametrize(("host", "model", "known"), ENTRIES)
def test_every_default_says_where_and_when_it_was_read(host, model, known):
    assert known.source.startswith("https://")
    assert datetime.date(2025, 1, 1) < known.as_of <= TODAY
    assert 0 < known.input <= known.output < 1000
    assert "/" not in host


def test_the_config_goes_before_the_default():
    own = Price(input=7, output=8)
    config = openai.Config(model="gpt-4o", price=own)
    assert price_of(config) == own
    assert list(default_lines({"t": config}, TODAY)) == []


def test_a_default_is_found_by_host_and_model_and_says_so():
    config = openai.Config(model="gpt-4o", base_url="https://api.openai.com/v1")
    assert price_of(config) == Price(input=2.5, output=10)
    (line,) = default_lines({"big": config}, TODAY)
    assert line.startswith("price of big: $2.5 / $10 a million tokens, as of 2026-05-01 (https://")
    assert "year" not in line


def test_a_default_older_than_a_year_is_flagged():
    known = defaults()["api.openai.com"]["gpt-4o"]
    config = openai.Config(model="gpt-4o")
    for days, old in ((365, False), (366, True)):
        (line,) = default_lines({"big": config}, known.as_of + datetime.timedelta(days=days))
        assert ("more than a year old, set teachers.big.price" in line) == old


@pytest.mark.parametrize(
    "config",
    [
        fake.Config(),
        openai.Config(model="no-such-model"),
        openai.Config(model="gpt-4o", base_url="http://127.0.0.1:8000/v1"),
        openai.Config(model="gpt-4o", base_url="https://api.openai.com.evil.example/v1"),
    ],
)
def test_what_is_not_known_has_no_price(config):
    assert price_of(config) is None
    assert list(default_lines({"t": config}, TODAY)) == []


@pytest.mark.parametrize("name", config_names())
def test_every_model_of_a_shipped_config_is_known_and_has_no_last_day(name):
    """A name that has ended fails on the first request; a price of its own hides the listed one."""
    run, _ = load_run(name)
    for teacher, entry in run.teachers.items():
        config = plugin_config("teacher", entry)
        if not hasattr(config, "base_url"):
            continue
        known = default_of(config)
        assert known is not None, f"{teacher}: {config.model} is not in prices.yaml"
        assert end_of(config, TODAY) is None
        if isinstance(config, openai_batch.Config):
            assert config.price == Price(input=known.input / 2, output=known.output / 2)
        else:
            assert config.price is None


@pytest.mark.parametrize(
    ("host", "model", "end"),
    [(host, model, end) for host, models in ends().items() for model, end in models.items()],
)
def test_a_model_that_ends_says_when_and_names_its_successor(host, model, end):
    assert end.source.startswith("https://") and end.successor
    config = openai.Config(model=model, base_url=f"https://{host}/v1")
    before, after = end.ended - datetime.timedelta(days=1), end.ended
    assert f"{model} ends at {host} on {end.ended}" in end_of(config, before)
    assert f"{model} ended at {host} on {end.ended}" in end_of(config, after)
    assert end.successor.split()[0] in defaults()[host]
    assert end_of(openai.Config(model=model, base_url="http://127.0.0.1:1/v1"), after) is None


def test_validate_warns_of_an_ended_model():
    old = ["teachers.r1.model=deepseek-reasoner"]
    (warning,) = machine_warnings(load_run("api", old)[0])
    assert warning.startswith("deepseek-reasoner ended at api.deepseek.com on 2026-07-24")
    assert "in its place: deepseek-flash" in warning
    assert machine_warnings(load_run("api")[0]) == []
