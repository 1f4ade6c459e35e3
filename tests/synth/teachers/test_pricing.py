"""Prices: the config's own, else a dated default that says where it comes from."""

import datetime

import pytest

from synth.core.usage import Price
from synth.teachers import fake, openai
from synth.teachers._pricing import default_lines, defaults, price_of

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
