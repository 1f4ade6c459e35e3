"""Placeholder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.config.plugin_entries import plugin_entries
from synth.config.run import Run
from synth.core.dataset import writing
from synth.core.record import Record, Task
from synth.core.run_folder import Folder
from synth.stages.build_filters import build_chain_of, check_threads, filters_at

if TYPE_CHECKING:
    pass
from synth.stages.generate import Say


def tasks_inputs(run: Run, folder: Folder) -> dict[str, Any]:
    """Sources, split, local files and question filters."""
    assert run.tasks is not None
    entries = plugin_entries(run.model_dump())
    files = {}
    for kind, _, entry in entries:
        if kind == "task source" and isinstance(path := entry.get("path"), str):
            stat = Path(path).stat()
            files[path] = [stat.st_size, stat.st_mtime_ns]
    return {
        "tasks": run.tasks.model_dump(),
        "seed": run.seed,
        "files": files,
        "filters": filters_at(run, {"question"}),
    }


def make_tasks(run: Run, folder: Folder, inputs: dict[str, Any], say: Say) -> dict[str, Any]:
    """Reads and splits the questions; those that no filter would keep are never asked."""
    from synth.tasks._load import load_tasks

    assert run.tasks is not None
    sets = load_tasks(run.tasks, run.seed)
    by_reason: dict[str, list[str]] = {}
    for skipped in sets.skipped:
        by_reason.setdefault(skipped.reason, []).append(skipped.place)
    for reason, places in list(by_reason.items())[:8]:
        say(f"  skipped {len(places)} rows, the first {places[0]}: {reason}")
    with (
        build_chain_of(run, sets.eval, levels={"question"}) as chain,
        writing(folder.stage("tasks"), ("train", "eval", "rejected")) as (splits, manifest),
    ):
        for task in sets.eval:
            splits["eval"].write(_unasked(task))
        for record in chain.apply(map(_unasked, sets.train), check_threads(run)):
            splits["train" if record.rejected_by is None else "rejected"].write(record)
        for name, said in chain.notes.items():
            for line in said:
                say(f"  {name}: {line}")
        manifest |= {
            "inputs": inputs,
            "notes": chain.notes,
            "skipped": [{"place": s.place, "reason": s.reason} for s in sets.skipped],
        }
    rows = manifest["rows"]
    say(
        f"  {rows['train']} questions to train on, {rows['eval']} kept back for the evaluation, "
        f"{rows['rejected']} rejected, {len(sets.skipped)} rows skipped"
    )
    return manifest


def _unasked(task: Task) -> Record:
    return Record(id=task.id, task=task, messages=[], reasoning=None, answer="")
