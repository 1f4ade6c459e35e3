"""Usage in every form that APIs give it: tokens, what was cached, and what it cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.core.usage import Price, TokenUsage, estimate_usage, read_usage

PRICE = Price(input=1, output=10, cached_input=0.1)


def read(usage, price=PRICE):
    return read_usage({"usage": usage}, price)


def tokens(prompt, completion, total=None, **more):
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    return usage if total is None else {**usage, "total_tokens": total}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # Reasoning within completion_tokens (OpenAI, DeepSeek), and beside it (xAI).
        (tokens(100, 500, 600, completion_tokens_details={"reasoning_tokens": 450}), (100, 500)),
        (tokens(100, 10, 1110, completion_tokens_details={"reasoning_tokens": 1000}), (100, 1010)),
        (tokens(32, 9, 135, completion_tokens_details={"reasoning_tokens": 94}), (32, 103)),
        (tokens(100, 10, completion_tokens_details={"reasoning_tokens": 1000}), (100, 1010)),
        (tokens(100, 10, 1110), (100, 1010)),  # Gemini behind OpenAI's form
        (tokens(100, 50, 150), (100, 50)),
        (tokens(100, 50, 0), (100, 50)),
        (tokens(100, 50, 120), (100, 50)),
        (tokens(100, None, 150), (100, 50)),
        (tokens(100.0, 50.0, 150.0), (100, 50)),
        ({"input_tokens": 100, "output_tokens": 50}, (100, 50)),
        ({"input_tokens": 10, "output_tokens": 50, "cache_read_input_tokens": 80, "cache_creation_input_tokens": 10}, (100, 50)),
        ({"input_tokens": 100, "output_tokens": 50, "input_tokens_details": {"cached_tokens": 80}}, (100, 50)),
        (tokens(20, 50, 150, prompt_tokens_details={"cached_tokens": 80}), (100, 50)),
    ],
)  # fmt: skip
def test_tokens(usage, expected):
    assert read(usage)[:2] == expected


@pytest.mark.parametrize(
    "more",
    [
        {"prompt_tokens_details": {"cached_tokens": 900}},
        {"prompt_cache_hit_tokens": 900, "prompt_cache_miss_tokens": 100},
        {"cached_tokens": 900},
        {"cache_read_input_tokens": 900},
    ],
)
def test_what_was_cached_has_a_price_of_its_own(more):
    usage = tokens(1000, 50, 1050, **more)
    assert read(usage).usd == pytest.approx((100 * 1 + 900 * 0.1 + 50 * 10) / 1e6)
    without = Price(input=1, output=10)
    assert read(usage, without).usd == pytest.approx((1000 * 1 + 50 * 10) / 1e6)


@pytest.mark.parametrize(
    ("more", "usd"),
    [
        ({"cost": 0.0123}, 0.0123),
        ({"cost": {"total_cost": 0.0123, "input_tokens_cost": 0.01}}, 0.0123),
        ({"estimated_cost": 0.0123}, 0.0123),
        ({"cost_in_usd_ticks": 123_000_000}, 0.0123),
        ({"cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.0113}}, 0.0123),
        ({"cost": 0}, 0.0006),  # a zero may be what a gateway writes that knows no price
        ({"cost": -1}, 0.0006),
        ({"cost": 10**9}, 0.0006),
        ({"cost": "much"}, 0.0006),
    ],
)  # fmt: skip
def test_the_providers_own_cost_goes_before_the_price(more, usd):
    usage = tokens(100, 50, 150, **more)
    assert read(usage).usd == pytest.approx(usd)
    expected = usd if usd == 0.0123 else 0.0 if more["cost"] == 0 else None
    assert read(usage, None).usd == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("value", [-1, 10**12, 10**400, "ten", [1], True, 2.5, float("nan"), float("inf")])  # fmt: skip
def test_what_cannot_be_is_set_aside_and_named(value):
    assert read(tokens(value, 50)) == TokenUsage(None, 50, None, 0, ("prompt_tokens",))
    assert read(tokens(100, 50, value))[:2] == (100, 50)


NAMES = st.sampled_from(
    ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "cost",
     "cached_tokens", "completion_tokens_details", "reasoning_tokens", "input_tokens",
     "output_tokens", "cost_details", "is_byok", "upstream_inference_cost", "cost_in_usd_ticks"]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner),
)


@given(st.dictionaries(NAMES, values) | values)
def test_no_usage_is_too_odd(usage):
    prompt, completion, usd, cached, _ = read(usage)
    assert prompt is None or 0 <= cached <= prompt <= 3 * 10**7
    assert completion is None or 0 <= completion <= 2 * 10**7
    assert usd is None or 0 <= usd <= 1000


def test_an_estimate_is_made_only_of_what_lacks():
    texts = ["a" * 400], ["b" * 40, "c" * 40]
    assert estimate_usage(read(tokens(100, 50)), *texts, PRICE) is None
    whole = estimate_usage(read(None), *texts, PRICE)
    assert whole == (120, pytest.approx((100 + 200) / 1e6))
    part = estimate_usage(read({"prompt_tokens": 7}), *texts, PRICE)
    assert part == (20, pytest.approx((7 + 200) / 1e6))
    assert estimate_usage(read(None), *texts, None) == (120, None)
    assert estimate_usage(read({"cost": 0.5}), *texts, PRICE) == (120, None)
