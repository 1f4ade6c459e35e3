import sys
import threading
import time
import types

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filters.base import KEEP, Context, Decision, Figures, FilterConfig, cannot_tell
from filters.engine.chain import Chain
from filters.engine.filter import FilterSpec, load_filters
from synth.core.errors import UserError
from synth.core.plugins import PluginConfig
from synth.core.record import Record, Task


class Options(FilterConfig):
    """Options of the filters of these tests."""

    word: str = ""


def module(name, build, level=None, **more):
    made = types.ModuleType(name)
    made.__file__ = __file__
    made.Config, made.build = Options, build
    vars(made).update(more)
    if level:
        made.LEVEL = level
    sys.modules[name] = made


def _drops(config, context):
    return lambda record: Decision(config.word not in record.answer, f"has it: {config.word}")


def _odd_questions(config, context):
    return lambda record: Decision(record.task.question != config.word, "bad question")


def _raises(config, context):
    def check(record):
        if config.word in record.answer:
            raise RuntimeError("no\nluck " + "x" * 1000)
        return KEEP

    return check


def _slow(config, context):
    def check(record):
        time.sleep(0.002 * (hash(record.id) % 3))
        return KEEP

    return check


@pytest.fixture(autouse=True)
def modules():
    module("chaintest.drops", _drops)
    module("chaintest.question", _odd_questions, "question")
    module("chaintest.raises", _raises)
    module("chaintest.slow", _slow)
    module("chaintest.level", _slow, "galaxy")
    sys.modules["chaintest"] = types.ModuleType("chaintest")
    yield
    for name in [name for name in sys.modules if name.startswith("chaintest")]:
        del sys.modules[name]


def spec(name, word="", **options):
    return FilterSpec(f"chaintest.{name}", options | ({"word": word} if word else {}))


def records(*answers):
    return [
        Record(str(i), Task(f"t{i}", f"q{i}"), [], None, answer) for i, answer in enumerate(answers)
    ]


def chain_of(*specs):
    return Chain(load_filters(list(specs)), Context())


def test_names_and_options():
    chain = Chain(load_filters([FilterSpec("think_format"), FilterSpec("think_format")]), Context())
    assert [one.name for one, _ in chain.checks] == ["think_format", "think_format.2"]
    with pytest.raises(UserError, match="did you mean 'truncated'"):
        Chain(load_filters([FilterSpec("trunkated")]), Context())
    with pytest.raises(UserError, match=r"filter 'truncated': unknwn: Extra inputs"):
        Chain(load_filters([FilterSpec("truncated", {"unknwn": True})]), Context())
    with pytest.raises(UserError, match="LEVEL"):
        chain_of(spec("level"))


def test_all_trace_filters_run_and_question_filters_apart():
    chain = chain_of(spec("drops", "a"), spec("question", "q0"), spec("drops", "b"))
    record = records("ab")[0]
    assert [v.keep for v in chain.check_trace(record)] == [False, False]
    assert [v.reason for v in chain.check_question(record.task)] == ["bad question"]
    assert record.verdicts == []


def test_a_filter_that_raises_costs_that_record():
    done = list(chain_of(spec("raises", "b")).apply(records("a", "b", "c"), 1))
    assert [r.rejected_by is None for r in done] == [True, False, True]
    failed = done[1].rejected_by
    assert failed.kind == "filter failed"
    assert failed.reason.startswith("filter failed: RuntimeError: no luck xxx")
    assert len(failed.reason) < 200


def test_what_is_no_decision_costs_that_record():
    module("chaintest.bare", lambda config, context: lambda record: True)
    (done,) = chain_of(spec("bare")).apply(records("a"), 1)
    assert done.rejected_by.kind == "filter failed"


def test_interrupts_are_not_swallowed():
    def build(config, context):
        def check(record):
            raise KeyboardInterrupt

        return check

    module("chaintest.stops", build)
    with pytest.raises(KeyboardInterrupt):
        list(chain_of(spec("stops")).apply(records("a"), 1))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text("abc", max_size=3), max_size=40), st.integers(1, 4))
def test_order_is_kept_and_nothing_lost(answers, workers):
    chain = chain_of(spec("slow"), spec("drops", "b"), spec("raises", "cc"))
    done = list(chain.apply(iter(records(*answers)), workers))
    assert [r.id for r in done] == [str(i) for i in range(len(answers))]
    good = [a for a in answers if "b" not in a and "cc" not in a]
    assert [r.answer for r in done if r.rejected_by is None] == good


def test_reads_only_a_bounded_way_ahead():
    read = 0

    def source():
        nonlocal read
        for record in records(*["a"] * 500):
            read += 1
            yield record

    done = chain_of(spec("drops", "b")).apply(source(), threads=2)
    next(done)
    assert read < 30
    done.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("filter")]


def test_an_error_of_the_source_passes_through():
    def source():
        yield from records("a")
        raise UserError("broken shard")

    with pytest.raises(UserError, match="broken shard"):
        list(chain_of(spec("slow")).apply(source(), 1))


def test_close_reaches_the_filters():
    closed = []

    class Check:
        def __call__(self, record):
            return KEEP

        def close(self):
            closed.append(True)

    module("chaintest.closing", lambda config, context: Check())
    with chain_of(spec("closing"), spec("slow")):
        pass
    assert closed == [True]


class CostBounds(Options):
    """Options of a filter that measures."""

    words_max: float | None = 3
    words_min: float | None = None
    digits_max: float | None = None


def _counts(config, context):
    def check(record):
        digits = sum(c.isdigit() for c in record.answer)
        return Figures({"words": len(record.answer.split()), "digits": digits}, {"seen": "x"})

    return check


def measuring():
    module("chaintest.counts", _counts, MEASURES={"words": ("short", "long"), "digits": "odd"})
    sys.modules["chaintest.counts"].Config = CostBounds


@pytest.mark.parametrize(
    "bounds, answer, keep, reason, score, threshold",
    [
        ({}, "a b", True, "", 2, 3),
        ({}, "a b c d", False, "long: words 4, over 3", 4, 3),
        ({"words_min": 2}, "a", False, "short: words 1, under 2", 1, 2),
        ({"words_max": None}, "a b c d", True, "", None, None),
        ({"words_max": None, "digits_max": 1}, "12", False, "odd: digits 2, over 1", 2, 1),
    ],
)
def test_figures_are_held_to_the_bounds(bounds, answer, keep, reason, score, threshold):
    measuring()
    with Chain(load_filters([FilterSpec("chaintest.counts", bounds)]), Context()) as chain:
        (said,) = chain.check_trace(records(answer)[0])
        ((one, check),) = chain.checks
        assert one.drops(one.judge(check, records(answer)[0])) == said.drops == (not keep)
    assert (said.keep, said.reason, said.score, said.threshold) == (keep, reason, score, threshold)
    assert said.evidence == '{"seen":"x"}'


def test_bounds_and_actions_are_no_part_of_the_fingerprint():
    measuring()

    def print_of(**options):
        return load_filters([FilterSpec("chaintest.counts", options)])[0].fingerprint(around=1)

    assert print_of() == print_of(words_max=7, action="tag", cannot_tell="drop")
    assert print_of() != print_of(word="x")
    sys.modules["chaintest.counts"].VERSION = 2  # of the user's own module the text counts
    assert print_of() == print_of(words_max=7)


def test_a_module_of_0_1_0_with_capital_names_beside_its_config_still_works():
    module(
        "chaintest.old", _counts, "question", VERSION=3, VERIFIES=True, USES_STUDENT=True,
        ASKS_TEACHER=True, limit=lambda config: 2 * len(config.word), MEASURES={"words": "long"},
        made_of=lambda config: [(config.word, {})],
    )  # fmt: skip
    (old,) = load_filters([spec("old", "chaintest.slow")])
    assert (old.level, old.limit, old.config.version) == ("question", 28, 3)
    assert (old.config.verifies, old.config.measures) == (True, {"words": "long"})
    assert old.needs("student") and old.needs("teacher") and not old.needs("eval_tasks")
    assert [part.name for part in old.parts] == ["chaintest.slow"]
    assert Options.version == 1 and Options().sub_filters() == []


def test_off_tag_and_drop():
    module("chaintest.unsure", lambda config, context: lambda record: cannot_tell("dark"))
    assert load_filters([spec("drops", "a", action=False)]) == []
    chain = chain_of(
        spec("drops", "a", action="tag"),
        spec("unsure", cannot_tell="tag"),
        spec("unsure", action="tag", cannot_tell="drop"),
        spec("unsure"),
    )
    record = records("a")[0]
    record.verdicts = chain.check_trace(record)
    assert [(v.keep, v.drops) for v in record.verdicts] == [
        (False, False), (None, False), (None, True), (None, True),
    ]  # fmt: skip
    assert [one.drops(one.judge(check, record)) for one, check in chain.checks] == [
        v.drops for v in record.verdicts
    ]
    assert record.rejected_by is record.verdicts[2]
    assert record.rejected_by.reason == "cannot tell: dark"


def test_evidence_that_is_too_long_or_no_json_costs_nothing():
    said = [{"text": "x" * 30_000}, {"odd": {1, 2}}]
    module(
        "chaintest.says",
        lambda config, context: lambda r: Decision(False, "no", None, None, said[int(r.answer)]),
    )
    chain = chain_of(spec("says"))
    long, odd = (chain.check_trace(record)[0] for record in records("0", "1"))
    assert long.evidence == '{"too long":30012}'
    assert odd.evidence == '{"odd":"{1, 2}"}'


def test_the_config_of_a_filter_is_a_filter_config():
    module("chaintest.plain", _slow)
    sys.modules["chaintest.plain"].Config = PluginConfig
    with pytest.raises(UserError, match="no FilterConfig"):
        load_filters([spec("plain")])


def test_an_empty_chain_keeps_all():
    (done,) = chain_of().apply(records("a"), 1)
    assert done.verdicts == []
