"""What the answers to an evaluation's questions come to: shares, their intervals, groups.

Who says whether an answer is right or in form is handed in, so this knows no filter.
"""

from __future__ import annotations

import operator
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft.evaluation.statistics import compare, gap_closed, majority_at_k, mean_interval, pass_at_k
from synth.core.record import Record, Task

# Comparing all answers of one who is evaluated may take so long; the rest is compared as text.
COMPARING_S = 300.0
# More groups than that are a list to scroll, with too few questions in each to say anything.
GROUPS_MAX = 12

Tally = Callable[[Sequence[tuple[str, float]], Any], list[tuple[list[str], float]]]


@dataclass(frozen=True)
class Reader:
    """How answers are read."""

    in_form: Callable[[Record], bool]  # whether an answer has the form that its prompt asks for
    final: Callable[[str], str | None]  # the final answer in a text, None where it has none
    # Final answers with their weights, and what says which are equal (None: as mathematics), to
    # groups of equal ones with the weight of each.
    tally: Tally


@dataclass(frozen=True, slots=True)
class _Answer:
    right: bool
    in_form: bool
    final: str | None
    reason: str
    truncated: bool
    tokens: int | None
    cost_usd: float | None


class Scores:
    """Counts right and wrong; a question that got no answer counts as wrong."""

    def __init__(self, tasks: Sequence[Task], reader: Reader) -> None:
        self.reader = reader
        self.answers: dict[str, list[_Answer]] = {task.id: [] for task in tasks}
        self.questions = self.answers.values()

    def take(self, records: Sequence[Record]) -> None:
        """Counts the answers to one question."""
        for record in records:
            rejected, generation = record.rejected_by, record.generation
            assert generation is not None
            answer = _Answer(
                right=rejected is None,
                in_form=self.reader.in_form(record),
                final=self.reader.final(record.answer),
                reason="right" if rejected is None else rejected.kind,
                truncated=generation.finish_reason == "length",
                tokens=generation.completion_tokens,
                cost_usd=generation.cost_usd,
            )
            self.answers[record.task.id].append(answer)

    def figures(
        self,
        groupings: Mapping[str, Sequence[str]],
        sizes: Sequence[int] = (1,),
        majority: bool = True,
    ) -> dict[str, Any]:
        """Returns accuracy with its interval, and what else the answers were like.

        Args:
            groupings: Ways to group the questions, and under each the group of every question.
            sizes: The k of pass@k and majority@k.
            majority: Whether the majority is counted: comparing answers takes time.
        """
        means = [
            statistics.fmean(answer.right for answer in answers) if answers else 0.0
            for answers in self.questions
        ]
        answers = [answer for answers in self.questions for answer in answers]
        costs = [answer.cost_usd for answer in answers if answer.cost_usd is not None]
        tokens = [answer.tokens for answer in answers if answer.tokens is not None]
        accuracy, low, high = mean(means).values()
        return {
            "cost_usd": sum(costs) if costs and len(costs) == len(answers) else None,
            "accuracy": accuracy,
            "low": low,
            "high": high,
            "per_question": means,
            "pass_at_k": [{"k": k, **mean(self._passes(k))} for k in sizes],
            "majority_at_k": self._majorities(sizes) if majority else [],
            "by": {
                name: [
                    {"group": group, "questions": len(indices), **mean([means[i] for i in indices])}
                    for group, indices in grouped(grouping).items()
                ]
                for name, grouping in groupings.items()
            },
            "reasons": dict(Counter(answer.reason for answer in answers)),
            "truncated": sum(answer.truncated for answer in answers),
            "truncation": self._answered("truncated"),
            "format": self._answered("in_form"),
            "answers": len(answers),
            "mean_tokens": statistics.fmean(tokens) if tokens else None,
        }

    def _answered(self, name: str) -> dict[str, float] | None:
        """Returns a share of the answers, with questions as clusters; None without any answer."""
        asked = [answers for answers in self.questions if answers]
        shares = [statistics.fmean(getattr(a, name) for a in answers) for answers in asked]
        return mean(shares) if shares else None

    def _passes(self, k: int) -> list[float]:
        """Returns pass@k of each question; answers missing for a subset count as wrong."""
        return [
            pass_at_k(max(k, len(answers)), sum(a.right for a in answers), k)
            for answers in self.questions
        ]

    def _majorities(self, sizes: Sequence[int]) -> list[dict[str, Any]]:
        """Returns majority@k with intervals; none where no answer has a box to be compared by.

        Of two answers the majority is either one by lot, which is pass@1 again, so it starts at 3.
        """
        sizes = [k for k in sizes if k > 2]
        if not sizes or not any(a.final for answers in self.questions for a in answers):
            return []
        end, votes, as_text = time.monotonic() + COMPARING_S, [], 0
        for answers in self.questions:
            late = time.monotonic() > end
            as_text += late
            votes.append(self._votes(answers, late))
        rows = []
        for k in sizes:
            chances, errors = [], []
            for groups, answers in zip(votes, self.questions, strict=True):
                silent = max(k, len(answers)) - sum(number for number, _ in groups)
                chance, error = majority_at_k(groups, silent, k)
                chances.append(chance)
                errors.append(error)
            drawn = sum(error**2 for error in errors) ** 0.5 / len(errors)
            rows.append({"k": k, **mean(chances), "drawing_error": drawn, "as_text": as_text})
        return rows

    def _votes(self, answers: Sequence[_Answer], as_text: bool) -> list[tuple[int, float]]:
        """Returns of each different final answer how many give it, and the share of right ones.

        Equal ones are found as the filters' vote finds them; whether one is right is the
        verifier's. Where all or none that vote are right, it does not matter which are equal.
        """
        written = Counter(answer.final for answer in answers if answer.final)
        right = Counter(answer.final for answer in answers if answer.final and answer.right)
        mixed = 0 < right.total() < written.total()
        same = None if mixed and not as_text else operator.eq
        return [
            (votes, sum(right[form] for form in forms) / votes)
            for forms, weight in self.reader.tally(list(written.items()), same)
            for votes in [round(weight)]
        ]


def grouped(grouping: Sequence[str]) -> dict[str, list[int]]:
    """Returns the indices of each group's questions; empty for one group alone, or too many."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(grouping):
        groups[group].append(index)
    if not 2 <= len(groups) <= GROUPS_MAX:
        return {}
    return {group: groups[group] for group in sorted(groups, key=_by_number)}


def _by_number(group: str) -> tuple[bool, float, str]:
    try:
        return False, float(group), group
    except ValueError:
        return True, 0.0, group


def mean(values: Sequence[float]) -> dict[str, float]:
    """Returns the mean over questions with its 95% interval."""
    low, high = mean_interval(values)
    return {"share": statistics.fmean(values), "low": low, "high": high}


def difference(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns after minus before, on the same questions, with its interval and a test."""
    if "after" not in results:
        return None
    return compare(results["before"]["per_question"], results["after"]["per_question"])._asdict()


def gap(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns which share of the way from the student before to the teacher training went."""
    if not {"after", "teacher"} <= set(results):
        return None
    scores = (results[who]["per_question"] for who in ("before", "after", "teacher"))
    return gap_closed(*scores)._asdict()


def paired(
    first: Sequence[float], second: Sequence[float], groupings: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Compares two results on the same questions, in all and in each group.

    Args:
        first: One score in [0, 1] a question.
        second: The scores of the same questions in the same order.
        groupings: As `Scores.figures` takes them.

    Returns:
        The fields of `sft.evaluation.statistics.Comparison` (second minus first), `questions`, the
        means `one` and `other`, and under `by` the same for each group.
    """

    def compared(indices: Sequence[int]) -> dict[str, Any]:
        one, other = ([scores[i] for i in indices] for scores in (first, second))
        means = {"one": statistics.fmean(one), "other": statistics.fmean(other)}
        return {"questions": len(indices), **means, **compare(one, other)._asdict()}

    by = {
        name: [{"group": group, **compared(indices)} for group, indices in grouped(groups).items()]
        for name, groups in groupings.items()
    }
    return {**compared(range(len(first))), "by": by}
