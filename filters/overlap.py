"""Drops questions that overlap an evaluation question, and names the one that they overlap."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from pydantic import Field

from filters.contract import KEEP, Check, Context, Decision
from synth.plugins import PluginConfig
from synth.record import Record
from synth.text import CJK, normalise_question

LEVEL = "question"

_CJK = re.compile(f"[{CJK}]")
# A short evaluation question within a longer one counts from this many words: `2 + 3` alone
# stands in every second question.
_SHORTEST = 5


class Config(PluginConfig):
    """Options of `overlap`."""

    words: int = Field(8, ge=3, le=100, description="Length of a shared run of words that counts")
    reordered: bool = Field(
        True, description="Also the same words in another order, as 12 + 34 and 34 + 12"
    )


def build(config: Config, context: Context) -> Check:
    """The check. Only questions are compared, in the form that `normalise_question` gives them.

    A question overlaps where it is the same as an evaluation question, has the same words in
    another order (`12 - 34` and `34 - 12` as well, which is the careful side), or shares a run of
    `words` words with one (twice as many where most are Chinese, Japanese or Korean characters,
    each of which is a word here). An evaluation question shorter than that counts where all of it
    stands in the question, from 5 words on.

    A run that, its numbers aside, stands in several evaluation questions is the wording of a
    template and not of a question: it does not count. So questions made by one generator overlap
    only where they are the same or reordered.
    """
    exact: dict[tuple[str, ...], str] = {}
    for task in context.eval_tasks:
        tokens = tuple(normalise_question(task.question))
        if tokens:
            exact.setdefault(tokens, task.id)
    bags = {tuple(sorted(tokens)): name for tokens, name in reversed(exact.items())}
    runs = _distinctive_runs(exact, config.words)

    def check(record: Record) -> Decision:
        tokens = tuple(normalise_question(record.task.question))
        if tokens in exact:
            return _drop(exact[tokens], "the same question")
        if config.reordered and (name := bags.get(tuple(sorted(tokens)))) is not None:
            return _drop(name, "same words in another order")
        for length, known in runs.items():
            for start in range(len(tokens) - length + 1):
                run = tokens[start : start + length]
                if (name := known.get(run)) is not None:
                    return _drop(name, f"shares {' '.join(run)!r}")
        return KEEP

    return check


def _drop(name: str, how: str) -> Decision:
    return Decision(False, f"overlaps evaluation: {name} ({how})")


def _distinctive_runs(
    questions: dict[tuple[str, ...], str], words: int
) -> dict[int, dict[tuple[str, ...], str]]:
    """By their length, the runs that stand in one evaluation question only, numbers aside."""
    where: defaultdict[int, dict[tuple[str, ...], str]] = defaultdict(dict)
    spread: Counter[tuple[str, ...]] = Counter()
    for tokens, name in questions.items():
        script = sum(map(bool, map(_CJK.match, tokens)))
        length = min(len(tokens), words * 2 if script * 2 > len(tokens) else words)
        if length < min(words, _SHORTEST):
            continue
        own = {tokens[i : i + length] for i in range(len(tokens) - length + 1)}
        for run in own:
            where[length].setdefault(run, name)
        spread.update({_masked(run) for run in own})
    return {
        length: {run: name for run, name in known.items() if spread[_masked(run)] == 1}
        for length, known in where.items()
    }


def _masked(run: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("0" if token[0].isdigit() else token for token in run)
