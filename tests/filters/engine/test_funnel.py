from filters.engine.funnel import Funnel, difficulty_of
from synth.core.record import Generation, Record, Task, Verdict


def verdict(name, keep, reason="", seconds=0.0, drops=None):
    return Verdict(name, keep, reason, None, drops=drops, seconds=seconds)


def record(verdicts, source="", tokens=None, answer="", **metadata):
    made = tokens and Generation("t", "m", "p", "", {}, 0, "stop", None, tokens, None, 0.0, "")
    task = Task("t", "q", source=source, metadata=metadata)
    return Record("r", task, [], None, answer, made, verdicts)


def test_funnel():
    funnel = Funnel()
    rows = [
        [verdict("a", False, "long: 5"), verdict("c", True, seconds=1)],
        [verdict("a", False, "long: 6"), verdict("c", False, "wrong")],
        [verdict("a", True), verdict("b", True), verdict("c", True, seconds=2)],
        [verdict("a", True), verdict("b", False, "duplicate: of x"), verdict("c", True)],
        [verdict("a", True), verdict("c", False, "wrong: 1")],
        [verdict("a", False, "long: 9", drops=False), verdict("c", None, "cannot tell: x")],
    ]
    for row in rows:
        funnel.add(record(row))
    assert (funnel.total, funnel.kept) == (6, 1)
    rows = [(c.name, c.seen, c.dropped, c.tagged, c.alone, dict(c.reasons)) for c in funnel.filters]
    assert rows == [
        ("a", 6, 2, 1, 1, {"long": 3}),
        ("b", 2, 1, 0, 1, {"duplicate": 1}),
        ("c", 3, 2, 0, 2, {"wrong": 1, "cannot tell": 1}),
    ]
    assert funnel.filters[2].seconds == 3


def test_losses_in_tokens_sources_and_difficulty():
    funnel = Funnel()
    funnel.add(record([verdict("a", False, "no")], "x", 30, level=3))
    funnel.add(record([verdict("a", True)], "x", 5, level=1))
    funnel.add(record([verdict("a", True)], "y", 7, level=3))
    assert (funnel.unit, funnel.tokens, funnel.tokens_kept) == ("tokens", 42, 12)
    assert funnel.sources == {"x": 2, "y": 1} and funnel.sources_kept == {"x": 1, "y": 1}
    assert funnel.difficulties == {"3": 2, "1": 1}
    (count,) = funnel.filters
    assert (count.tokens, count.sources, count.difficulties) == (30, {"x": 1}, {"3": 1})


def test_words_where_nobody_counted_tokens():
    funnel = Funnel()
    funnel.add(record([], answer="one two three"))
    funnel.add(record([], tokens=99, answer="four five"))
    assert (funnel.unit, funnel.tokens) == ("words", 5)


def test_many_sorts_count_together():
    funnel = Funnel()
    for number in range(100):
        funnel.add(record([], source=f"s{number}"))
    assert len(funnel.sources) == 31 and funnel.sources["(other)"] == 70


def test_a_difficulty_that_is_a_share_goes_by_tenths():
    assert difficulty_of(record([], pass_rate=0.3125)) == "0.3"
    assert difficulty_of(record([], level="Level 5", pass_rate=0.5)) == "Level 5"
    assert difficulty_of(record([])) == ""
