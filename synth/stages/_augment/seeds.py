"""Seeds of new questions: what each request of the stage `augment` starts from."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from synth.config.augment import Augment
from synth.core.record import Task

# A number that can be masked: no exponent or index, no part of a word, a date or a time.
_NUMBER = re.compile(
    r"(?<![\w.,:/^{\\-])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w:/}^-]|[.,]\d)", re.ASCII
)
_UNKNOWNS = "xyznpqrst"
# A combination that was drawn before is drawn again at most so often, for each that is wanted.
_TRIES = 20


@dataclass(frozen=True)
class Seed:
    """What one request starts from."""

    asked: Task  # what the template is rendered from: question, and variables as metadata
    parents: list[str]  # ids of the old questions that it shows
    parent: Task | None = None  # the old question where it starts from one alone
    drawn: dict[str, Any] = field(default_factory=dict)  # persona, topic, masked number: lineage
    number: str | None = None  # that was masked
    unknown: str = ""  # the letter that stands for it


def draw_seeds(
    entry: Augment,
    tasks: Sequence[Task],
    rng: random.Random,
    bare: Callable[[str], str],
    skipped: Counter[str],
) -> Iterator[Seed]:
    """Yields what the requests of one entry start from.

    `bare` gives a reference answer without its worked solution. `skipped` counts by their reason
    the old questions that nothing can start from.
    """
    if not entry.from_question:
        yield from _without_question(entry, tasks, rng)
        return
    if entry.draws is not None and entry.draws < len(tasks):
        tasks = [tasks[i] for i in sorted(rng.sample(range(len(tasks)), entry.draws))]
    needs = set(entry.prompt.variables)
    for task in tasks:
        variables: dict[str, Any] = {"count": entry.each}
        if task.answer is not None:
            variables["answer"] = bare(task.answer)
            variables["solution"] = task.metadata.get("solution", task.answer)
        if lacking := needs & {"answer", "solution"} - variables.keys():
            skipped[f"no {min(lacking)}"] += 1
        elif not entry.masks:
            metadata = task.metadata | variables
            asked = Task(f"{task.id}-{entry.name}", task.question, task.answer, "", metadata)
            yield Seed(asked, [task.id], task)
        elif not (numbers := list(_NUMBER.finditer(task.question))):
            skipped["no number"] += 1
        else:
            for match in rng.sample(numbers, min(entry.each, len(numbers))):
                yield _masked(entry, task, variables, match)


def _masked(entry: Augment, task: Task, variables: dict[str, Any], match: re.Match[str]) -> Seed:
    """Returns a seed that asks for the question with one of its numbers unknown."""
    unknown = next((u for u in _UNKNOWNS if not contains_unknown(u, task.question)), "UNKNOWN")
    number = match[0].replace(",", "")
    question = f"{task.question[: match.start()]}{unknown}{task.question[match.end() :]}"
    asked = Task(
        f"{task.id}-{entry.name}-{match.start()}",
        question,
        number,
        "",
        task.metadata | variables | {"masked": question, "unknown": unknown},
    )
    return Seed(asked, [task.id], task, {"masked": number}, number, unknown)


def _without_question(entry: Augment, tasks: Sequence[Task], rng: random.Random) -> Iterator[Seed]:
    """Yields seeds that start from no one question; no two of them are alike."""
    none: list[str | None] = [None]
    combinations = list(itertools.product(entry.personas or none, entry.topics or none))
    rng.shuffle(combinations)
    wanted = entry.draws if entry.draws is not None else len(combinations)
    shows = "seeds" in entry.prompt.variables
    seen: set[Any] = set()
    for attempt in range(_TRIES * wanted if shows else wanted):
        if len(seen) == wanted:
            return
        persona, topic = combinations[attempt % len(combinations)]
        shots = rng.sample(tasks, min(entry.shots, len(tasks))) if shows else []
        combination = (persona, topic, tuple(task.id for task in shots))
        if combination in seen:
            continue
        seen.add(combination)
        pairs = (("persona", persona), ("topic", topic))
        drawn = {name: value for name, value in pairs if value is not None}
        variables = {"count": entry.each, "seeds": [task.question for task in shots], **drawn}
        asked = Task(f"{entry.name}-{len(seen) - 1}", "", None, "", variables)
        yield Seed(asked, [task.id for task in shots], None, drawn)


def contains_unknown(letter: str, text: str) -> bool:
    """Tells whether a letter stands in a text as an unknown does: in `2x + 1`, not in `six`.

    >>> contains_unknown("x", "2x + 1"), contains_unknown("x", "six")
    (True, False)
    """
    return re.search(rf"(?<![A-Za-z]){letter}(?![A-Za-z])", text) is not None
