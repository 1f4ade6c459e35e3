"""Tokenizers and skeletons of the models that a config names, as far as they can be looked at.

Nothing is asked of a hub that cannot be reached, and no weights are read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from synth.config.run import Run, trained
from synth.config.train import Student
from synth.core.errors import UserError
from synth.core.hub import hub_answers, offline
from synth.core.models import load_tokenizer, locate

T = TypeVar("T")
# What the hub's client raises where it did not get an answer, by name.
_NO_ANSWER = {
    "ConnectError", "ConnectTimeout", "ConnectionError", "HfHubHTTPError",
    "LocalEntryNotFoundError", "OfflineModeIsEnabled", "ProxyError", "ReadTimeout",
}  # fmt: skip


class NotSeen(Exception):
    """A model that cannot be looked at from here; the text says why."""


class Lookup:
    """Looks at the models of a run; `trained:NAME` is made of what NAME starts from."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def find(self, model: str) -> None:
        """Raises NotSeen, in a moment, where a model cannot be looked at."""
        if (name := trained(model)) is not None:
            self.find(self.run.chain[name].student.model)
        else:
            _look(model, lambda: None)

    def tokenizer(self, model: str, trust_remote_code: bool) -> Any:
        """Returns a model's tokenizer, a new object each time.

        Raises UserError where it cannot be loaded, and NotSeen where it cannot be looked at.
        """
        if (name := trained(model)) is None:
            return _look(model, lambda: load_tokenizer(model, trust_remote_code))
        from sft.data.chat_template import select_template, set_chat_template

        start = self.run.chain[name].student
        tokenizer = self.tokenizer(start.model, start.trust_remote_code)
        set_chat_template(tokenizer, select_template(tokenizer, start.chat_template))
        return tokenizer

    def skeleton(self, student: Student) -> Any:
        """Returns a student's model without weights; raises as `tokenizer`."""
        from sft.models.student import skeleton

        if (name := trained(student.model)) is None:
            return _look(student.model, lambda: skeleton(student))
        return skeleton(student, self.skeleton(self.run.chain[name].student))


def _look(model: str, load: Callable[[], T]) -> T:
    folder, _ = locate(model)
    if Path(folder).is_dir():
        return load()
    cached = _is_cached(folder)
    if cached:
        with offline(), contextlib.suppress(UserError):
            return load()
    if not hub_answers():
        known = "not all of its files are in the cache" if cached else "it is in no cache"
        raise NotSeen(f"no folder of that name is here, {known}, and no hub can be reached")
    try:
        return load()
    except UserError as error:
        if _no_answer(error):
            raise NotSeen(str(error)) from error
        raise


def _is_cached(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(repository, "config.json"), str)
    except HFValidationError as error:
        raise UserError(f"model {repository}: no folder, and no name of a hub: {error}") from error


def _no_answer(error: BaseException | None) -> bool:
    while error is not None:
        if type(error).__name__ in _NO_ANSWER:
            return True
        error = error.__cause__ or error.__context__
    return False
