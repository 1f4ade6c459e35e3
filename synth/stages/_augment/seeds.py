"""What new questions start from, and how they are read from an answer: pure functions of a seed."""

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
# Draws that turn out to be one that was drawn before are drawn again so often, each.
_TRIES = 20


@dataclass(frozen=True)
class Seed:
    """What one request starts from.

    Attributes:
        asked: What the template is rendered from: question, and variables as metadata.
        parents: Ids of the old questions that it shows.
        parent: The one old question, where it starts from one.
        drawn: What was drawn for it (persona, topic, masked number), for the lineage.
        number: The number that was masked.
        unknown: The letter that stands for it.
    """

    asked: Task
    parents: list[str]
    parent: Task | None = None
    drawn: dict[str, Any] = field(default_factory=dict)
    number: str | None = None
    unknown: str = ""


def draws(
    entry: Augment,
    tasks: Sequence[Task],
    chance: random.Random,
    bare: Callable[[str], str],
    skipped: Counter[str],
) -> Iterator[Seed]:
    """What the requests of one entry start from.

    Args:
        entry: The entry of the config.
        tasks: The old questions.
        chance: Decides all that is drawn.
        bare: Gives a reference answer without its worked solution.
        skipped: Counts by their reason the old questions that nothing can start from.
    """
    if not entry.from_question:
        yield from _from_none(entry, tasks, chance)
        return
    if entry.draws is not None and entry.draws < len(tasks):
        tasks = [tasks[i] for i in sorted(chance.sample(range(len(tasks)), entry.draws))]
    needs = set(entry.prompt.variables)
    for task in tasks:
        own: dict[str, Any] = {"count": entry.each}
        if task.answer is not None:
            own["answer"] = bare(task.answer)
            own["solution"] = task.metadata.get("solution", task.answer)
        if lacking := needs & {"answer", "solution"} - own.keys():
            skipped[f"no {min(lacking)}"] += 1
        elif not entry.masks:
            asked = Task(
                f"{task.id}-{entry.name}", task.question, task.answer, "", task.metadata | own
            )
            yield Seed(asked, [task.id], task)
        elif not (places := list(_NUMBER.finditer(task.question))):
            skipped["no number"] += 1
        else:
            for place in chance.sample(places, min(entry.each, len(places))):
                yield _masked(entry, task, own, place)


def _masked(entry: Augment, task: Task, own: dict[str, Any], place: re.Match[str]) -> Seed:
    unknown = next((u for u in _UNKNOWNS if not stands_in(u, task.question)), "UNKNOWN")
    number = place[0].replace(",", "")
    question = f"{task.question[: place.start()]}{unknown}{task.question[place.end() :]}"
    asked = Task(
        f"{task.id}-{entry.name}-{place.start()}",
        question,
        number,
        "",
        task.metadata | own | {"masked": question, "unknown": unknown},
    )
    return Seed(asked, [task.id], task, {"masked": number}, number, unknown)


def _from_none(entry: Augment, tasks: Sequence[Task], chance: random.Random) -> Iterator[Seed]:
    """Requests that start from no one question: no two of them are alike."""
    nobody: list[str | None] = [None]
    combinations = list(itertools.product(entry.personas or nobody, entry.topics or nobody))
    chance.shuffle(combinations)
    wanted = entry.draws if entry.draws is not None else len(combinations)
    shows = "seeds" in entry.prompt.variables
    seen: set[Any] = set()
    for attempt in range(_TRIES * wanted if shows else wanted):
        if len(seen) == wanted:
            return
        persona, topic = combinations[attempt % len(combinations)]
        shown = chance.sample(tasks, min(entry.shots, len(tasks))) if shows else []
        this = (persona, topic, tuple(task.id for task in shown))
        if this in seen:
            continue
        seen.add(this)
        drawn = {"persona": persona, "topic": topic}
        drawn = {name: value for name, value in drawn.items() if value is not None}
        own = {"count": entry.each, "seeds": [task.question for task in shown], **drawn}
        asked = Task(f"{entry.name}-{len(seen) - 1}", "", None, "", own)
        yield Seed(asked, [task.id for task in shown], None, drawn)


def stands_in(letter: str, text: str) -> bool:
    """Whether a letter stands by itself in a text, as an unknown does: in `2x + 1`, not in `six`.

    >>> stands_in("x", "2x + 1"), stands_in("x", "six")
    (True, False)
    """
    return re.search(rf"(?<![A-Za-z]){letter}(?![A-Za-z])", text) is not None
