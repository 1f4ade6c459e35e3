"""Errors keep kind, message and exit status when they are copied, prefixed and sent."""

import pickle

import pytest

from synth.core.errors import (
    ConfigError,
    Interrupted,
    MissingPackage,
    Problem,
    Unfinished,
    UserError,
)

PROBLEM = Problem("a.yaml:3", "train.epochs", "no number")


@pytest.mark.parametrize(
    "error",
    [
        UserError("a"),
        Unfinished("b"),
        Interrupted("c"),
        MissingPackage("torch", "the student", extra="train"),
        ConfigError([PROBLEM]),
    ],
)
def test_an_error_is_the_same_from_another_process_and_behind_a_prefix(error):
    sent, prefixed = pickle.loads(pickle.dumps(error)), error.prefixed("teacher t: ")
    assert type(sent) is type(prefixed) is type(error)
    assert str(sent) == str(error) and str(prefixed) == f"teacher t: {error}"
    assert sent.exit_status == prefixed.exit_status == error.exit_status
    assert vars(sent) == vars(prefixed) == vars(error)
