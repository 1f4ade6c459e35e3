"""Keeps traces that say what most of the answers to their question say."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import Field

from filters.answers.boxed import final_answer
from filters.answers.voting import tally_weighted
from filters.base import Context, Decision, FilterConfig, SetCheck, cannot_tell
from synth.core.record import Record
from synth.core.text.display import shown

_LONGEST = 2_000
_TALLIED = 8


class Config(FilterConfig):
    """Options of `vote`."""

    filter_level = "set"

    min_votes: float = Field(2, gt=0, description="Fewest votes (weights) that make a majority")
    min_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Smallest share of a question's votes that makes a majority; answers without "
        "a final answer count among them",
    )
    weights: dict[str, float] = Field(
        default_factory=dict, description="Votes of a teacher's answer, by its name; 1 by default"
    )
    equal: Literal["math", "text"] = Field(
        "math", description="When two final answers are one: as math_answer has it, or as text"
    )
    only_without_reference: bool = Field(
        False, description="Questions that have a reference answer pass without a vote"
    )


def memory(config: Config, records: int) -> int:
    """Bytes that a vote over so many records holds: their final answers and places."""
    return 400 * records


def build(config: Config, context: Context) -> SetCheck:
    r"""The check over a data set, which it reads twice: to count, and to decide.

    A vote is the last `\boxed{...}` of an answer. The final answer with the most votes is the
    majority where it has `min_votes` and `min_share` of them all and no other has as many; without
    one nobody can tell. The score is the share of the votes that a record's own final answer has.
    """
    same = operator.eq if config.equal == "text" else None

    def check(start: Callable[[], Iterator[Record]]) -> Iterator[Decision]:
        votes: dict[str, list[tuple[str | None, float]]] = defaultdict(list)
        for record in start():
            if _votes(record, config):
                teacher = record.generation.teacher if record.generation else ""
                votes[record.task.id].append((_final(record), config.weights.get(teacher, 1.0)))
        tallies: dict[str, _Tally] = {}
        for record in start():
            if not _votes(record, config):
                yield Decision(True)
                continue
            question = record.task.id
            if question not in tallies:
                tallies[question] = _Tally(votes.pop(question), config, same)
            yield tallies[question].decision(_final(record))

    return check


class _Tally:
    """What the answers to one question say."""

    def __init__(self, votes: list[tuple[str | None, float]], config: Config, same: Any) -> None:
        self._total = sum(weight for _, weight in votes)
        self._groups = tally_weighted([(f, weight) for f, weight in votes if f], same)
        tally = {shown(group[0]): round(weight, 4) for group, weight in self._groups[:_TALLIED]}
        self._evidence = {"tally": tally, "answers": len(votes)}
        self._trouble = self._why_none(config)

    def _why_none(self, config: Config) -> str:
        if not self._groups:
            return "no final answer among them"
        votes = self._groups[0][1]
        if len(self._groups) > 1 and self._groups[1][1] == votes:
            return "a tie"
        if votes < config.min_votes:
            return f"too few votes for one answer ({votes:g} of {config.min_votes:g})"
        if votes < config.min_share * self._total:
            return f"no majority ({votes:g} of {self._total:g})"
        return ""

    def decision(self, final: str | None) -> Decision:
        """The verdict on a record with this final answer."""
        if final is None:
            return Decision(False, "no answer found", None, None, self._evidence)
        votes = next((weight for group, weight in self._groups if final in group), 0.0)
        share = votes / self._total if self._total else 0.0
        if self._trouble:
            return cannot_tell(self._trouble, self._evidence)._replace(score=share)
        winner = self._groups[0][0]
        if final in winner:
            return Decision(True, "", share, None, self._evidence)
        reason = f"outvoted: got {shown(final)}, most say {shown(winner[0])}"
        return Decision(False, reason, share, None, self._evidence)


def _votes(record: Record, config: Config) -> bool:
    return not (config.only_without_reference and record.task.answer)


def _final(record: Record) -> str | None:
    final = final_answer(record.answer)
    return final[:_LONGEST] if final else None
