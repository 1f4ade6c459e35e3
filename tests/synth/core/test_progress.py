"""Progress where standard error is no terminal: plain lines, and nothing of a short wait."""

import threading

import pytest

from synth.core import progress
from synth.core.progress import doing, shown


@pytest.mark.parametrize(("remains", "text"), [(True, "7 of 7\n"), (False, "")])
def test_the_end_of_work_remains_and_that_of_a_wait_does_not(capsys, remains, text):
    with shown(lambda: "7 of 7", remains=remains):
        pass
    assert capsys.readouterr().err == text


def test_a_longer_wait_says_what_is_loaded(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_FIRST_S", 0)
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.01)
    calls, looked = [], threading.Event()

    def render():
        calls.append(None)
        if len(calls) > 1:  # the first line was written by then
            looked.set()
        return ""

    with doing("loading the tokenizer of x"), shown(render, remains=False):
        assert looked.wait(30)
    assert capsys.readouterr().err == "loading the tokenizer of x\n"
