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
    """How answers are read.

    Attributes:
        in_form: Whether an answer has the form that its prompt asks for.
        final: The final answer in a text, None where it has none.
        tally: Final answers with their weights, and what says which are equal (None: as
            mathematics), in groups of equal ones with the weight of each.
    """

    in_form: Callable[[Record], bool]
    final: Callable[[str], str | None]
    tally: Tally


class Scores:
    """Right or wrong, question by question; a question that got no answer counts as wrong."""

    def __init__(self, tasks: Sequence[Task], reader: Reader) -> None:
        self.reader = reader
        self.right: dict[str, list[float]] = {task.id: [] for task in tasks}
        self.formed: dict[str, list[float]] = {task.id: [] for task in tasks}
        self.cut: dict[str, list[float]] = {task.id: [] for task in tasks}
        self.finals: dict[str, list[tuple[str | None, bool]]] = {task.id: [] for task in tasks}
        self.finish: dict[str, int] = defaultdict(int)
        self.reasons: dict[str, int] = defaultdict(int)
        self.tokens: list[int] = []
        self.costs: list[float | None] = []

    def take(self, records: Sequence[Record]) -> None:
        """Counts the answers to one question."""
        for record in records:
            rejected, id = record.rejected_by, record.task.id
            self.right[id].append(float(rejected is None))
            self.formed[id].append(float(self.reader.in_form(record)))
            self.finals[id].append((self.reader.final(record.answer), rejected is None))
            self.reasons["right" if rejected is None else rejected.kind] += 1
            assert record.generation is not None
            self.finish[record.generation.finish_reason] += 1
            self.cut[id].append(float(record.generation.finish_reason == "length"))
            self.costs.append(record.generation.cost_usd)
            if record.generation.completion_tokens is not None:
                self.tokens.append(record.generation.completion_tokens)

    def figures(
        self,
        sorts: Mapping[str, Sequence[str]],
        sizes: Sequence[int] = (1,),
        majority: bool = True,
    ) -> dict[str, Any]:
        """Accuracy with its interval, and what else the answers were like.

        Args:
            sorts: Ways to sort the questions, and under each what every question is.
            sizes: The k of pass@k and majority@k.
            majority: Whether the majority is counted: comparing answers takes time.
        """
        means = [statistics.fmean(values) if values else 0.0 for values in self.right.values()]
        costs = [cost for cost in self.costs if cost is not None]
        accuracy, low, high = mean(means).values()
        return {
            "cost_usd": sum(costs) if costs and len(costs) == len(self.costs) else None,
            "accuracy": accuracy,
            "low": low,
            "high": high,
            "per_question": means,
            "pass_at_k": [{"k": k, **mean(self._passes(k))} for k in sizes],
            "majority_at_k": self._majorities(sizes) if majority else [],
            "by": {
                name: [
                    {"group": group, "questions": len(own), **mean([means[i] for i in own])}
                    for group, own in grouped(sort).items()
                ]
                for name, sort in sorts.items()
            },
            "reasons": dict(self.reasons),
            "truncated": self.finish["length"],
            "truncation": _answered(self.cut),
            "format": _answered(self.formed),
            "answers": sum(self.finish.values()),
            "mean_tokens": statistics.fmean(self.tokens) if self.tokens else None,
        }

    def _passes(self, k: int) -> list[float]:
        """pass@k of each question; answers that are missing for a subset count as wrong."""
        return [
            pass_at_k(max(k, len(values)), round(sum(values)), k) for values in self.right.values()
        ]

    def _majorities(self, sizes: Sequence[int]) -> list[dict[str, Any]]:
        """majority@k with intervals; none where no answer has a box to be compared by.

        Of two answers the majority is either one by lot, which is pass@1 again, so it starts at 3.
        """
        sizes = [k for k in sizes if k > 2]
        if not sizes or not any(final for finals in self.finals.values() for final, _ in finals):
            return []
        end, groups, as_text = time.monotonic() + COMPARING_S, [], 0
        for finals in self.finals.values():
            late = time.monotonic() > end
            as_text += late
            groups.append(self._equal(finals, late))
        found = []
        for k in sizes:
            chances, errors = [], []
            for votes, finals in zip(groups, self.finals.values(), strict=True):
                silent = max(k, len(finals)) - sum(number for number, _ in votes)
                chance, error = majority_at_k(votes, silent, k)
                chances.append(chance)
                errors.append(error)
            drawn = sum(error**2 for error in errors) ** 0.5 / len(errors)
            found.append({"k": k, **mean(chances), "drawing_error": drawn, "as_text": as_text})
        return found

    def _equal(
        self, finals: Sequence[tuple[str | None, bool]], as_text: bool
    ) -> list[tuple[int, float]]:
        """The different final answers: how many give each, and which share of those is right.

        Equal ones are found as the filters' vote finds them; whether one is right is the
        verifier's. Where all or none that vote are right, it does not matter which are equal.
        """
        written = Counter(final for final, _ in finals if final)
        right = Counter(final for final, good in finals if final and good)
        mixed = 0 < right.total() < written.total()
        same = None if mixed and not as_text else operator.eq
        return [
            (votes, sum(right[form] for form in forms) / votes)
            for forms, weight in self.reader.tally(list(written.items()), same)
            for votes in [round(weight)]
        ]


def grouped(sort: Sequence[str]) -> dict[str, list[int]]:
    """The places of each group's questions; empty where there is one group alone, or too many."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(sort):
        groups[group].append(place)
    if not 2 <= len(groups) <= GROUPS_MAX:
        return {}
    return {group: groups[group] for group in sorted(groups, key=_by_number)}


def _by_number(group: str) -> tuple[bool, float, str]:
    try:
        return False, float(group), group
    except ValueError:
        return True, 0.0, group


def mean(values: Sequence[float]) -> dict[str, float]:
    """The mean over questions with its 95% interval."""
    low, high = mean_interval(values)
    return {"share": statistics.fmean(values), "low": low, "high": high}


def _answered(values: Mapping[str, Sequence[float]]) -> dict[str, float] | None:
    """A share of the answers, with questions as clusters; None where nothing was answered."""
    means = [statistics.fmean(one) for one in values.values() if one]
    return mean(means) if means else None


def difference(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """After minus before, on the same questions, with its interval and a test."""
    if "after" not in results:
        return None
    found = compare(results["before"]["per_question"], results["after"]["per_question"])
    return found._asdict()


def gap(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Which share of the way from the student before to the teacher the training went."""
    if not {"after", "teacher"} <= set(results):
        return None
    scores = (results[who]["per_question"] for who in ("before", "after", "teacher"))
    return gap_closed(*scores)._asdict()


def paired(
    one: Sequence[float], other: Sequence[float], sorts: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """How two results on the same questions differ, in all and in each group.

    Args:
        one: One score in [0, 1] a question.
        other: The scores of the same questions in the same order.
        sorts: As `Scores.figures` takes them.

    Returns:
        The fields of `sft.evaluation.statistics.Comparison` (other minus one), `questions`, the
        means `one` and `other`, and under `by` the same for each group.
    """

    def of(places: Sequence[int]) -> dict[str, Any]:
        both = [one[i] for i in places], [other[i] for i in places]
        means = {"one": statistics.fmean(both[0]), "other": statistics.fmean(both[1])}
        return {"questions": len(places), **means, **compare(*both)._asdict()}

    by = {
        name: [{"group": group, **of(places)} for group, places in grouped(sort).items()]
        for name, sort in sorts.items()
    }
    return {**of(range(len(one))), "by": by}
