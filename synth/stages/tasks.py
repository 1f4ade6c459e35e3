"""The stage `tasks`: reads the questions, splits them, and applies the question filters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synth.config.plugin_entries import plugin_entries
from synth.config.run import Tasks
from synth.core.dataset import writing
from synth.core.record import Record, Task
from synth.stages.context import StageContext
from synth.tasks.base import located

_REASONS_SHOWN = 8  # why rows were skipped


def tasks_inputs(section: Tasks, context: StageContext) -> dict[str, Any]:
    """Returns sources, split, local files and question filters."""
    files = {}
    for kind, _, entry in plugin_entries(context.run.model_dump()):
        if kind == "task source" and isinstance(path := entry.get("path"), str):
            stat = Path(located(path)).stat()
            files[path] = [stat.st_size, stat.st_mtime_ns]
    return {
        "tasks": section.model_dump(),
        "seed": context.seed,
        "files": files,
        "filters": context.filters.at("question").options,
    }


def make_tasks(section: Tasks, context: StageContext, inputs: dict[str, Any]) -> dict[str, Any]:
    """Reads and splits the questions; those that no filter would keep are never asked."""
    from synth.tasks import load_tasks

    say = context.say
    sets = load_tasks(section, context.seed)
    by_reason: dict[str, list[str]] = {}
    for skipped in sets.skipped:
        by_reason.setdefault(skipped.reason, []).append(skipped.place)
    for reason, places in list(by_reason.items())[:_REASONS_SHOWN]:
        say(f"  skipped {len(places)} rows, the first {places[0]}: {reason}")
    with (
        context.filters.chain("question", eval_tasks=sets.eval) as chain,
        writing(context.path, ("train", "eval", "rejected")) as (splits, manifest),
    ):
        for task in sets.eval:
            splits["eval"].write(unanswered(task))
        threads = context.filters.check_threads
        for record in chain.apply(map(unanswered, sets.train), threads):
            splits["train" if record.rejected_by is None else "rejected"].write(record)
        for name, lines in chain.notes.items():
            for line in lines:
                say(f"  {name}: {line}")
        manifest |= {
            "inputs": inputs,
            "notes": chain.notes,
            "skipped": [{"place": s.place, "reason": s.reason} for s in sets.skipped],
        }
    rows = manifest["rows"]
    without = sum(task.answer is None for task in (*sets.train, *sets.eval))
    if without:
        say(f"  {without} of {len(sets.train) + len(sets.eval)} questions have no reference answer")
    say(
        f"  {rows['train']} questions to train on, {rows['eval']} kept back for the evaluation, "
        f"{rows['rejected']} rejected, {len(sets.skipped)} rows skipped"
    )
    return manifest


def unanswered(task: Task) -> Record:
    """Returns the record of a question that nobody was asked yet."""
    return Record(task.id, task, [], None, "")
