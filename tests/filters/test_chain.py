import sys
import threading
import time
import types

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filters.chain import FilterSpec, Funnel, build_chain
from filters.contract import KEEP, Context, Decision
from synth.errors import UserError
from synth.plugins import PluginConfig
from synth.record import Record, Task, Verdict


class Options(PluginConfig):
    """Options of the filters of these tests."""

    word: str = ""


def module(name, build, level=None):
    made = types.ModuleType(name)
    made.Config, made.build = Options, build
    if level:
        made.LEVEL = level
    sys.modules[name] = made


def _drops(config, context):
    return lambda record: Decision(config.word not in record.answer, f"has it: {config.word}")


def _odd_questions(config, context):
    return lambda record: Decision(record.task.question != config.word, "bad question")


def _once(config, context):
    seen = set()

    def check(record):
        if record.answer in seen:
            return Decision(False, "seen")
        seen.add(record.answer)
        return KEEP

    return check


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
    module("chaintest.once", _once, "set")
    module("chaintest.raises", _raises)
    module("chaintest.slow", _slow)
    module("chaintest.level", _slow, "galaxy")
    sys.modules["chaintest"] = types.ModuleType("chaintest")
    yield
    for name in [name for name in sys.modules if name.startswith("chaintest")]:
        del sys.modules[name]


def spec(name, word=""):
    return FilterSpec(f"chaintest.{name}", {"word": word} if word else {})


def records(*answers):
    return [
        Record(str(i), Task(f"t{i}", f"q{i}"), [], None, answer) for i, answer in enumerate(answers)
    ]


def chain_of(*specs):
    return build_chain(list(specs), Context())


def test_names_and_options():
    chain = build_chain([FilterSpec("think_format"), FilterSpec("think_format")], Context())
    assert chain.names == ["think_format", "think_format.2"]
    with pytest.raises(UserError, match="did you mean 'truncated'"):
        build_chain([FilterSpec("trunkated")], Context())
    with pytest.raises(UserError, match=r"filter 'truncated': unknwn: Extra inputs"):
        build_chain([FilterSpec("truncated", {"unknwn": True})], Context())
    with pytest.raises(UserError, match="LEVEL"):
        chain_of(spec("level"))


def test_verdicts_stand_in_the_order_of_the_config():
    chain = chain_of(spec("once"), spec("drops", "b"), spec("question", "q2"), spec("drops", "c"))
    done = list(chain.apply(records("a", "b", "c", "a")))
    names = ["chaintest.once", "chaintest.drops", "chaintest.question", "chaintest.drops.2"]
    assert [[v.filter for v in r.verdicts] for r in done] == [names, names[1:], names[1:], names]
    reasons = [r.rejected_by and r.rejected_by.reason for r in done]
    assert reasons == [None, "has it: b", "bad question", "seen"]


def test_all_trace_filters_run_and_question_filters_apart():
    chain = chain_of(spec("drops", "a"), spec("question", "q0"), spec("drops", "b"), spec("once"))
    record = records("ab")[0]
    assert [v.keep for v in chain.check_trace(record)] == [False, False]
    assert [v.reason for v in chain.check_question(record.task)] == ["bad question"]
    assert record.verdicts == []


def test_a_filter_that_raises_costs_that_record():
    chain = chain_of(spec("raises", "b"), spec("once"))
    done = list(chain.apply(records("a", "b", "c")))
    assert [r.rejected_by is None for r in done] == [True, False, True]
    failed = done[1].rejected_by
    assert failed.kind == "filter failed"
    assert failed.reason.startswith("filter failed: RuntimeError: no luck xxx")
    assert len(failed.reason) < 200


def test_what_is_no_decision_costs_that_record():
    module("chaintest.bare", lambda config, context: lambda record: True)
    (done,) = chain_of(spec("bare")).apply(records("a"))
    assert done.rejected_by.kind == "filter failed"


def test_interrupts_are_not_swallowed():
    def build(config, context):
        def check(record):
            raise KeyboardInterrupt

        return check

    module("chaintest.stops", build)
    with pytest.raises(KeyboardInterrupt):
        list(chain_of(spec("stops")).apply(records("a")))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text("abc", max_size=3), max_size=40), st.integers(1, 4))
def test_order_is_kept_and_nothing_lost(answers, workers):
    chain = chain_of(spec("slow"), spec("drops", "b"), spec("raises", "cc"), spec("once"))
    funnel = Funnel()
    done = []
    for record in chain.apply(iter(records(*answers)), workers):
        funnel.add(record)
        done.append(record)
    assert [r.id for r in done] == [str(i) for i in range(len(answers))]
    good = [a for a in answers if "b" not in a and "cc" not in a]
    kept = [r.answer for r in done if r.rejected_by is None]
    assert kept == list(dict.fromkeys(good))
    assert funnel.total == len(answers)
    assert funnel.kept + sum(count.dropped for count in funnel.filters) == funnel.total
    # What a filter hands on is what the next one sees.
    left = funnel.total
    for count in funnel.filters:
        assert count.seen == left
        left -= count.dropped
    assert Funnel.from_dict(funnel.to_dict()) == funnel


def test_reads_only_a_bounded_way_ahead():
    read = 0

    def source():
        nonlocal read
        for record in records(*["a"] * 500):
            read += 1
            yield record

    done = chain_of(spec("drops", "b")).apply(source(), workers=2)
    next(done)
    assert read < 30
    done.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("filter")]


def test_an_error_of_the_source_passes_through():
    def source():
        yield from records("a")
        raise UserError("broken shard")

    with pytest.raises(UserError, match="broken shard"):
        list(chain_of(spec("slow")).apply(source()))


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


def verdict(name, keep, reason="", seconds=0.0):
    return Verdict(name, keep, reason, None, seconds)


def test_funnel():
    funnel = Funnel()
    rows = [
        [verdict("a", False, "long: 5"), verdict("c", True, seconds=1)],
        [verdict("a", False, "long: 6"), verdict("c", False, "wrong")],
        [verdict("a", True), verdict("b", True), verdict("c", True, seconds=2)],
        [verdict("a", True), verdict("b", False, "duplicate: of x"), verdict("c", True)],
        [verdict("a", True), verdict("c", False, "wrong: 1")],
    ]
    for row in rows:
        funnel.add(Record("r", Task("t", "q"), [], None, "", verdicts=row))
    assert (funnel.total, funnel.kept) == (5, 1)
    assert [(c.name, c.seen, c.dropped, c.alone, dict(c.reasons)) for c in funnel.filters] == [
        ("a", 5, 2, 1, {"long": 2}),
        ("b", 2, 1, 1, {"duplicate": 1}),
        ("c", 2, 1, 1, {"wrong": 1}),
    ]
    assert funnel.filters[2].seconds == 3


def test_an_empty_chain_keeps_all():
    (done,) = chain_of().apply(records("a"))
    assert done.verdicts == []
