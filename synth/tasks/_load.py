"""Reads the config's task sources into two sets of tasks that share no question.

Nothing is passed over in silence: a row that gives no task is counted with its place and reason.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from synth.config.plugin_entries import plugin_config, split_plugin
from synth.config.run import Tasks
from synth.core import plugins
from synth.core.errors import UserError, nearest
from synth.core.readers import (
    Row,
    Skipped,
    cell_at,
    find_column,
    json_value,
    kind_of,
    media_column,
    media_placeholder,
    reference_text,
    without,
)
from synth.core.record import Task, digest
from synth.core.text.question_text import question_key
from synth.tasks.base import SourceConfig

_LOOKED_AT = 20_000  # questions of a source by which `first_mistake` tells


@dataclass(slots=True)
class TaskSets:
    """The questions of a run; none of `eval`, in any order of its words, is in `train`."""

    train: list[Task] = field(default_factory=list)
    eval: list[Task] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)  # rows that gave no task


def load_tasks(config: Tasks, seed: int) -> TaskSets:
    """Reads all sources and splits them.

    With `holdout`, questions that are the same but for the order of their words fall on the same
    side; which side depends on the seed and the words alone, so that appending rows to a source
    moves no question across by itself except to keep the number right. Raises UserError where a
    source cannot be read, or one side is left empty.
    """
    sets = TaskSets()
    seen: set[str] = set()
    train = list(_sources(config.train, sets.skipped, seen))
    if config.eval is not None:
        sets.eval = list(_sources(config.eval, sets.skipped, set()))
        eval_ids = {question_key(task.question): task.id for task in sets.eval}
        for task in train:
            if (eval_id := eval_ids.get(question_key(task.question))) is not None:
                sets.skipped.append(Skipped(task.id, f"in the evaluation as {eval_id}"))
            else:
                sets.train.append(task)
    elif config.holdout is not None:
        sets.train, sets.eval = _hold_out(train, config.holdout, seed)
    else:
        sets.train = train
    for side, tasks, wanted in (
        ("train", sets.train, config.train),
        ("eval", sets.eval, config.eval or config.holdout),
    ):
        if wanted and not tasks:
            why = ""
            if sets.skipped:
                first = sets.skipped[0]
                why = f"; first of {len(sets.skipped)} skipped rows: {first.place}: {first.reason}"
            raise UserError(f"tasks.{side}: the sources give no question{why}")
    return sets


def _hold_out(tasks: list[Task], holdout: int | float, seed: int) -> tuple[list[Task], list[Task]]:
    wanted = holdout if isinstance(holdout, int) else round(holdout * len(tasks))
    if wanted >= len(tasks):
        raise UserError(
            f"tasks.holdout: {wanted} of {len(tasks)} questions leaves none to train on"
        )
    keys = [question_key(task.question) for task in tasks]
    counts = Counter(keys)
    held_out: set[str] = set()
    size = 0
    for key in sorted(counts, key=lambda key: _draw(seed, key)):
        if size >= wanted:
            break
        held_out.add(key)
        size += counts[key]
    sides: tuple[list[Task], list[Task]] = [], []
    for task, key in zip(tasks, keys, strict=True):
        sides[key in held_out].append(task)
    return sides


def _draw(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "replace")).digest()


def _sources(
    entries: list[dict[str, Any]], skipped: list[Skipped], seen: set[str]
) -> Iterator[Task]:
    """Yields the tasks of several sources in turn; a question met before is skipped."""
    for entry in entries:
        for task in source_tasks(entry, skipped):
            if task.id in seen:
                skipped.append(Skipped(task.id, "the same question and answer stand there before"))
            else:
                seen.add(task.id)
                yield task


def source_tasks(entry: dict[str, Any], skipped: list[Skipped]) -> Iterator[Task]:
    """Yields the tasks of one source, in its order or shuffled, up to its limit.

    Raises UserError where it cannot be read, or no row has the column that `answer` names.
    """
    name, _ = split_plugin("task source", entry)
    config = plugin_config("task source", entry)
    assert isinstance(config, SourceConfig)
    rows: Iterator[Row] = plugins.load("task source", name).build(config)
    if config.shuffle is not None:
        shuffled = list(rows)
        random.Random(config.shuffle).shuffle(shuffled)
        rows = iter(shuffled)
    label = config.name or _label(name, entry)

    missing: set[str] = set()  # columns of the rows, while none had the one that `answer` names

    def tasks() -> Iterator[Task]:
        wanted = config.answer if "answer" in config.model_fields_set else None
        for row in rows:
            if wanted and row.values is not None:
                if find_column(row.values, wanted) is None:
                    missing.update(map(str, row.values))
                else:
                    wanted = None
                    missing.clear()
            task = _task(row, config, label)
            if isinstance(task, Task):
                yield task
            else:
                skipped.append(Skipped(row.place, task))

    yield from itertools.islice(tasks(), config.limit)
    if missing:
        raise UserError(
            f"{label}: answer: no row has the column {config.answer!r}"
            f"{nearest(str(config.answer), missing)} (`answer: null` asks without references)"
        )


def first_mistake(entry: dict[str, Any]) -> str | None:
    """Says why a source gives no question, or cannot be read; None where it gives some."""
    skipped: list[Skipped] = []
    limit = min(entry.get("limit") or _LOOKED_AT, _LOOKED_AT)
    try:
        tasks = source_tasks({**entry, "limit": limit, "shuffle": None}, skipped)
        if any([task.question for task in tasks]):
            return None
    except UserError as error:
        return str(error)
    first = f"; the first row: {skipped[0].place}: {skipped[0].reason}" if skipped else ""
    return f"there is no question in it{first}"


def _label(name: str, entry: dict[str, Any]) -> str:
    for key in ("generator", "dataset", "path"):
        if key in entry:
            return str(entry[key]).rstrip("/").rpartition("/")[2]
    return name


def _task(row: Row, config: SourceConfig, label: str) -> Task | str:
    """Returns the task of a row, or why it gives none."""
    if row.values is None:
        return row.error
    values = {str(name): value for name, value in row.values.items()}
    paths = {}
    for name in (config.question, *config.columns.values()):
        if (path := find_column(values, name)) is None:
            return f"no column {name!r}{nearest(name, values)}"
        paths[name] = path
    question = cell_at(values, paths[config.question])
    if not isinstance(question, str) or not question.strip():
        return f"the question in {config.question!r} is not text or is empty"
    answer = None
    if config.answer and (path := find_column(values, config.answer)) is not None:
        paths[config.answer], cell = path, cell_at(values, path)
        if isinstance(cell, dict) or (isinstance(cell, list) and len(cell) != 1):
            return (
                f"the reference in {config.answer!r} is {kind_of(cell)}, where text or a number is "
                "expected; name what is in it by dots, or set `answer: null` to ask without one"
            )
        answer = reference_text(cell)
    renamed = {new: cell_at(values, paths[name]) for new, name in config.columns.items()}
    rest = values
    for path in paths.values():
        rest = without(rest, path)
    if media := media_column(rest) or media_placeholder(question):
        return f"no text alone: it needs what is in {media}, and no teacher is shown that"
    try:
        metadata = json_value({**rest, **renamed})
    except ValueError as error:
        return str(error)
    id = f"{label}-{digest([question, answer, metadata])[:12]}"
    return Task(id, question, answer, label, metadata)
