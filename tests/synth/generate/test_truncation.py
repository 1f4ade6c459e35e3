"""Answers that were cut off: kept, set aside, asked again with more room, or continued."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.config.generate import Truncation
from synth.core.errors import Unfinished
from synth.core.reasoning import join_trace, parse_completion, split_trace, whole_text
from synth.core.usage import TokenUsage
from synth.generate.client import Reply
from synth.generate.sampler import merged
from tests.helpers.scripted_teacher import Scripted, ask_with, completion, run, tasks

WHOLE = "<think>\none two three four\n</think>\n\nso \\boxed{0}"


class Limited(Scripted):
    """Writes WHOLE in pieces of as many characters as max_tokens says; continues where asked."""

    def __init__(self, split=False):
        super().__init__(self.write)
        self.split = split

    def write(self, request, number):
        begun = ""
        if request.sampling.get("continue_final_message"):
            assert request.sampling["add_generation_prompt"] is False
            begun = request.messages[-1]["content"]
            assert WHOLE.startswith(begun)
        limit = request.sampling["max_tokens"]
        text = WHOLE[len(begun) : len(begun) + limit]
        cut = len(begun) + limit < len(WHOLE)
        return completion(text, "length" if cut else "stop", tokens=(5, len(text)))


def ask(teacher, limit=30, **policy):
    from synth.config.generate import Sampling

    return ask_with(
        teacher, sampling=Sampling(max_tokens=limit), truncation=Truncation(alarm=None, **policy)
    )


def test_continue_joins_the_pieces_to_what_it_would_have_been(tmp_path):
    teacher = Limited()
    got, counts = run(ask(teacher, policy="continue", times=3), tasks(1), tmp_path / "s")
    [record] = got[0][1]
    assert (record.reasoning, record.answer) == split_trace(WHOLE)
    assert record.generation.finish_reason == "stop"
    assert len(record.generation.earlier_keys) == 1
    assert record.generation.completion_tokens == len(WHOLE)
    assert record.messages == [{"role": "user", "content": "question 0"}]
    assert counts.bought == 2
    again = Limited()
    second, _ = run(ask(again, policy="continue", times=3), tasks(1), tmp_path / "s")
    assert not again.asked
    assert second[0][1][0].answer == record.answer


def test_raise_asks_again_with_more_room_and_keeps_the_last(tmp_path):
    teacher = Limited()
    got, counts = run(
        ask(teacher, policy="raise_max_tokens", times=2, factor=2), tasks(1), tmp_path / "s"
    )
    [record] = got[0][1]
    assert record.generation.sampling["max_tokens"] == 60
    assert record.rejected_by is None
    assert counts.bought == 2
    assert counts.cut == 1


def test_as_often_as_it_says_and_no_more(tmp_path):
    teacher = Limited()
    got, _ = run(ask(teacher, limit=5, policy="continue", times=2), tasks(1), tmp_path / "s")
    assert len(teacher.asked) == 3
    assert got[0][1][0].generation.finish_reason == "length"


def test_drop_sets_it_aside_with_its_reason_and_keep_leaves_it_to_the_filters(tmp_path):
    dropped, _ = run(ask(Limited(), limit=5, policy="drop"), tasks(1), tmp_path / "a")
    assert ("truncation", False) in [(v.filter, v.keep) for v in dropped[0][1][0].verdicts]
    kept, _ = run(ask(Limited(), limit=5, policy="keep"), tasks(1), tmp_path / "b")
    assert [v.filter for v in kept[0][1][0].verdicts] == ["right"]


@pytest.mark.slow
def test_dropped_traces_have_a_split_of_their_own(distill, write_config, tmp_path):
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(60)]
    config = {
        "name": "r", "tasks": {"train": [{"source": "inline", "tasks": rows}]},
        "teachers": {"t": {"kind": "fake", "truncated": 0.3}},
        "generate": {"prompt": {"template": "boxed.en"}, "truncation": {"policy": "drop"}},
        "filters": ["math_answer"],
    }  # fmt: skip
    done = distill("run", write_config(config))
    assert done.returncode == 0, done.stderr
    from synth.core.dataset import read_split

    folder = tmp_path / "runs/r/generate"
    cut = [r.generation.finish_reason for r in read_split(folder, "cut")]
    rest = [r.generation.finish_reason for r in read_split(folder, "train")]
    assert set(cut) == {"length"}
    assert set(rest) == {"stop"}
    assert len(cut) + len(rest) == 60
    assert len(cut) > 5


def test_many_cut_off_early_on_stop_the_run_with_all_saved(tmp_path):
    teacher = Scripted(lambda r, n: completion("x", "length"))
    asked = ask_with(teacher, concurrency=4, truncation=Truncation(), alarm="stop")
    with pytest.raises(
        Unfinished, match=r"50 of the first 50 answers were cut off at max_tokens 9"
    ):
        run(asked, tasks(500), tmp_path / "s")
    assert 50 <= len(teacher.asked) <= 50 + 4
    few = Scripted(
        lambda r, n: completion("x", "length" if int(r.task.answer) % 3 == 0 else "stop")
    )
    spec = ask_with(few, truncation=Truncation(), alarm="stop", check=None)
    assert run(spec, tasks(100), tmp_path / "t")[1].bought == 100


@given(
    st.one_of(st.none(), st.text("ab \n", min_size=1)),
    st.text("ab<>/ \n"),
    st.integers(0, 60),
    st.booleans(),
)
def test_cut_anywhere_and_however_the_server_splits_it_the_pieces_make_the_whole(
    reasoning, answer, at, server_splits
):
    text = join_trace(reasoning.strip() if reasoning else None, answer)
    if not text.strip() or "think" in answer:
        return
    head, tail = text[:at], text[at:]
    first = completion(head, "length")
    if server_splits and head.startswith("<think>\n") and "</think>" not in head:
        first = completion(None, "length", reasoning=head.removeprefix("<think>\n"))
    usage = TokenUsage(None, None, None)
    replies = [
        Reply(str(number), raw, 0.0, usage, parse_completion(raw))
        for number, raw in enumerate([first, completion(tail)])
    ]
    if whole_text(first) == head:  # a tag that was itself cut through cannot be told by a server
        assert merged(replies)[:2] == split_trace(text)
